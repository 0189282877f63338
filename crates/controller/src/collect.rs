//! Frees the bytes of images that nothing names any more. They are kept for an hour after their last
//! use: an image's bytes come before its row, and a host may be fetching them.

use crate::controller::Controller;
use boira_core::image;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const EVERY: Duration = Duration::from_secs(60);
const KEPT_UNUSED: Duration = Duration::from_secs(3600);

/// Collects until the process ends.
pub async fn run(controller: Arc<Controller>) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let controller = controller.clone();
        let collected =
            tokio::task::spawn_blocking(move || collect(&controller, KEPT_UNUSED)).await;
        match collected {
            Ok(Ok(0)) => {}
            Ok(Ok(bytes)) => tracing::info!("freed {} MiB of removed images", bytes >> 20),
            Ok(Err(error)) => tracing::error!("removed images can't be freed: {error}"),
            Err(error) => tracing::error!("removed images can't be freed: {error}"),
        }
    }
}

fn collect(controller: &Controller, kept_unused: Duration) -> boira_chunks::Result<u64> {
    let unused_since = SystemTime::now() - kept_unused;
    let named = image::named_blobs(&controller.cluster.snapshot().state);
    controller
        .blobs
        .retain(unused_since, |digest| named.contains(&digest.to_string()))
}
