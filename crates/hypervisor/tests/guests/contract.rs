//! What every driver promises, asked of both.

use std::sync::Arc;

use crate::common::{Console, Host, has_exited, is_running, until};
use boira_hypervisor::simulated::{Behaviour, Operation, Simulated};
use boira_hypervisor::{Error, ExitReason, GuestSpec, GuestState, Hypervisor};

const GUEST: &str = "i-0123456789abcdef0";

/// The life of a guest, as far as no guest software is needed for it.
async fn keeps_the_contract(driver: Arc<dyn Hypervisor>, mut spec: GuestSpec) {
    let absent = driver.pause(GUEST).await;
    assert!(
        matches!(absent, Err(Error::Unknown(ref guest)) if guest == GUEST),
        "{absent:?}"
    );
    assert!(matches!(driver.kill(GUEST).await, Err(Error::Unknown(_))));
    driver.forget(GUEST).await.expect("nothing to forget");

    driver.start(&spec, Vec::new()).await.unwrap();
    driver
        .start(&spec, Vec::new())
        .await
        .expect("starting twice is one start");
    let seen = until(&driver, GUEST, is_running).await;
    assert_eq!((seen.generation, seen.boots), (1, 1));
    spec.generation = 2;
    let refused = driver.start(&spec, Vec::new()).await;
    assert!(
        matches!(
            refused,
            Err(Error::OtherGeneration {
                present: 1,
                asked: 2,
                ..
            })
        ),
        "{refused:?}"
    );

    driver.pause(GUEST).await.unwrap();
    driver
        .pause(GUEST)
        .await
        .expect("pausing twice is one pause");
    assert_eq!(driver.observe().await.unwrap()[0].state, GuestState::Paused);
    driver.resume(GUEST).await.unwrap();
    driver.resume(GUEST).await.expect("resuming twice is one");
    assert_eq!(
        driver.observe().await.unwrap()[0].state,
        GuestState::Running
    );
    driver.reset(GUEST).await.unwrap();
    until(&driver, GUEST, |seen| seen.boots == 2).await;

    assert!(matches!(
        driver.forget(GUEST).await,
        Err(Error::StillRunning(_))
    ));
    let mut console = Console::open(&driver, GUEST).await;
    driver.kill(GUEST).await.unwrap();
    let seen = driver.observe().await.unwrap().remove(0);
    assert_eq!(
        (&seen.state, seen.pid),
        (&GuestState::Exited(ExitReason::Killed), None)
    );
    console.hear_the_end().await;
    driver.kill(GUEST).await.expect("it is dead");
    assert!(matches!(driver.resume(GUEST).await, Err(Error::Exited(_))));
    assert!(matches!(
        driver.power_button(GUEST).await,
        Err(Error::Exited(_))
    ));
    assert!(driver.console(GUEST).await.is_err());
    driver
        .console_log(GUEST, 1024)
        .await
        .expect("the log stays");
    spec.generation = 1;
    assert!(matches!(
        driver.start(&spec, Vec::new()).await,
        Err(Error::Exited(_))
    ));
    assert_eq!(driver.observe().await.unwrap(), [seen]);

    driver.forget(GUEST).await.unwrap();
    assert_eq!(driver.observe().await.unwrap(), []);
    spec.generation = 2;
    driver.start(&spec, Vec::new()).await.unwrap();
    assert_eq!(until(&driver, GUEST, is_running).await.generation, 2);
    driver.kill(GUEST).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_driver_keeps_the_contract() {
    let host = Host::new();
    keeps_the_contract(host.driver(), host.spec(GUEST)).await;
}

#[tokio::test(start_paused = true)]
async fn the_simulated_driver_keeps_the_contract() {
    let host = Host::new();
    let driver = Arc::new(Simulated::new(Behaviour::default()));
    keeps_the_contract(driver, host.spec(GUEST)).await;
}

#[tokio::test(start_paused = true)]
async fn simulated_guests_change_when_they_should_and_not_before() {
    let host = Host::new();
    let behaviour = Behaviour::default();
    let simulated = Simulated::new(behaviour.clone());
    let driver: Arc<dyn Hypervisor> = Arc::new(simulated.clone());
    let began = tokio::time::Instant::now();
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    assert_eq!(
        driver.observe().await.unwrap()[0].state,
        GuestState::Starting
    );
    until(&driver, GUEST, is_running).await;
    let within = |limit| (began.elapsed() - limit).as_millis() <= 2;
    assert!(within(behaviour.start_delay), "{:?}", began.elapsed());

    // An agent that starts again finds the same world.
    let driver: Arc<dyn Hypervisor> = Arc::new(simulated.clone());
    driver.power_button(GUEST).await.unwrap();
    driver.power_button(GUEST).await.unwrap();
    let seen = until(&driver, GUEST, has_exited).await;
    assert_eq!(seen.state, GuestState::Exited(ExitReason::Poweroff));
    assert!(
        within(behaviour.start_delay + behaviour.poweroff_delay.unwrap()),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn simulated_guests_do_what_the_test_wants_and_fail_as_it_says() {
    let host = Host::new();
    let simulated = Simulated::new(Behaviour {
        poweroff_delay: None,
        ..Behaviour::default()
    });
    let driver: Arc<dyn Hypervisor> = Arc::new(simulated.clone());
    simulated.set_faults(Some(Arc::new(|operation, guest| {
        (operation == Operation::Start && guest == GUEST).then(|| "the disk is full".to_owned())
    })));
    let refused = driver.start(&host.spec(GUEST), Vec::new()).await;
    assert!(
        matches!(refused, Err(Error::Refused { ref reason, .. }) if reason == "the disk is full")
    );
    assert_eq!(driver.observe().await.unwrap(), []);
    driver
        .start(&host.spec("i-00000002"), Vec::new())
        .await
        .expect("another one");
    simulated.set_faults(None);
    driver.start(&host.spec(GUEST), Vec::new()).await.unwrap();
    until(&driver, GUEST, is_running).await;

    driver.power_button(GUEST).await.unwrap();
    tokio::time::advance(std::time::Duration::from_secs(3600)).await;
    assert!(
        is_running(&until(&driver, GUEST, |_| true).await),
        "it ignores the button"
    );

    simulated.guest_says(GUEST, "login: ").unwrap();
    let mut one = Console::open(&driver, GUEST).await;
    let mut two = Console::open(&driver, GUEST).await;
    one.hear("login: ").await;
    two.hear("login: ").await;
    two.say("root\n").await;
    one.hear("root\n").await;
    assert_eq!(driver.console_log(GUEST, 5).await.unwrap(), b"root\n");
    simulated.guest_exits(GUEST, ExitReason::Panic).unwrap();
    one.hear_the_end().await;
    assert_eq!(
        until(&driver, GUEST, has_exited).await.state,
        GuestState::Exited(ExitReason::Panic)
    );
}
