//! Real guests: what the trait promises, kept by the real driver.

mod common;

use boira_hypervisor::{Error, ExitReason, GuestState};
use common::{Console, Host, has_exited, is_running, until};

const GUEST: &str = "i-0123456789abcdef0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_starts_speaks_and_powers_itself_off() {
    let host = Host::new();
    let driver = host.driver();
    let spec = host.spec(GUEST);
    driver.start(&spec, Vec::new()).await.unwrap();
    driver
        .start(&spec, Vec::new())
        .await
        .expect("starting twice is one start");
    let mut console = Console::open(&driver, GUEST).await;
    console.hear("READY unwritten").await;
    let seen = until(&driver, GUEST, is_running).await;
    assert_eq!((seen.generation, seen.boots), (1, 1));

    console.say("hello").await;
    console.hear("hello").await;
    console.say("p").await;
    let seen = until(&driver, GUEST, has_exited).await;
    assert_eq!(seen.state, GuestState::Exited(ExitReason::Poweroff));
    assert_eq!(seen.pid, None);
    console.to_the_end().await;

    assert!(matches!(
        driver.start(&spec, Vec::new()).await,
        Err(Error::Exited(_))
    ));
    let log = driver.console_log(GUEST, 64 * 1024).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&log), "READY unwritten\r\nhello");
    driver.forget(GUEST).await.unwrap();
    driver.forget(GUEST).await.unwrap();
    assert_eq!(driver.observe().await.unwrap(), []);
    assert!(matches!(
        driver.console_log(GUEST, 1).await,
        Err(Error::Unknown(_))
    ));
}
