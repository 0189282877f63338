use std::path::Path;
#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap().parse().unwrap();
    let out = args.next().unwrap();
    let t = std::time::Instant::now();
    let built = boira_images::build(
        kind,
        &Path::new(&out).join("work"),
        Path::new(&out),
        &move |s| {
            eprintln!(
                "{:6.2} {} {}/{}",
                t.elapsed().as_secs_f32(),
                s.name,
                s.done,
                s.total
            )
        },
    )
    .await;
    match built {
        Ok(b) => println!("{}", serde_json::to_string_pretty(&b).unwrap()),
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    }
}
