//! Signs instance identity documents with the cloud's key, beside the writer and the polls: a
//! signature costs about a millisecond, so it is made by a thread of its own, kept, and the host is
//! told again when it is there.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boira_core::wanted::Notary;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};

/// Documents remembered; the oldest half goes when there are more.
const KEPT: usize = 20_000;

pub struct Signer {
    made: Arc<Mutex<HashMap<String, Option<String>>>>,
    wanted: Mutex<mpsc::Sender<String>>,
}

impl Signer {
    /// Starts the signing thread. `done` is called when it has nothing left to do, after it has made
    /// new signatures.
    pub fn start(key_pkcs8: &[u8], done: impl Fn() + Send + 'static) -> Result<Self> {
        let key = RsaKeyPair::from_pkcs8(key_pkcs8)
            .map_err(|error| anyhow::anyhow!("{error}"))
            .context("read the cloud's identity key")?;
        let made: Arc<Mutex<HashMap<String, Option<String>>>> = Arc::default();
        let (sender, inbox) = mpsc::channel::<String>();
        let shelf = made.clone();
        std::thread::Builder::new()
            .name("notary".into())
            .spawn(move || {
                let _vital = boira_store::Vital;
                yield_to_requests();
                while let Ok(first) = inbox.recv() {
                    for document in std::iter::once(first).chain(inbox.try_iter()) {
                        let signature = sign(&key, &document);
                        shelf
                            .lock()
                            .expect("no holder of this lock panics")
                            .insert(document, Some(signature));
                    }
                    done();
                }
            })?;
        Ok(Self {
            made,
            wanted: Mutex::new(sender),
        })
    }
}

/// Guests boot for seconds before they could ask; launches must not wait for their signatures.
fn yield_to_requests() {
    // SAFETY: changes the priority of the calling thread only, and touches no memory. That it may
    // fail where the limit is lower changes nothing but the order of work.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
    }
}

fn sign(key: &RsaKeyPair, document: &str) -> String {
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &ring::rand::SystemRandom::new(),
        document.as_bytes(),
        &mut signature,
    )
    .expect("the buffer has the modulus' length");
    STANDARD.encode(signature)
}

impl Notary for Signer {
    fn sign(&self, document: &str) -> Option<(String, String)> {
        let mut made = self.made.lock().expect("no holder of this lock panics");
        match made.get(document) {
            Some(Some(signature)) => return Some((signature.clone(), String::new())),
            Some(None) => return None,
            None => {}
        }
        if made.len() >= KEPT {
            // Those still needed are signed again when they are asked for.
            made.retain(|_, signature| signature.is_none());
        }
        made.insert(document.to_owned(), None);
        let _ = self
            .wanted
            .lock()
            .expect("no holder of this lock panics")
            .send(document.to_owned());
        None
    }
}
