//! Signs instance identity documents with the cloud's key, beside the writer and the polls: a
//! signature costs about a millisecond, so it is made by a thread of its own, kept, and the host is
//! told again when it is there.
//!
//! A document has two signatures as in AWS: the bare one (RSA, PKCS #1 v1.5, SHA-256) and the same
//! one in PKCS #7 (RFC 2315) with the document inside, which names the cloud's certificate.

use crate::pki::Identity;
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boira_core::wanted::Notary;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};
use tokio::sync::watch;

/// Documents remembered; all go when there are more, and those still needed are signed again.
const KEPT: usize = 100_000;

/// Signatures by the SHA-256 of their document; `None` is being made.
type Shelf = HashMap<[u8; 32], Option<Arc<[u8]>>>;

pub struct Signer {
    made: Arc<Mutex<Shelf>>,
    wanted: Mutex<mpsc::Sender<String>>,
    /// How many signatures are being made.
    pending: watch::Sender<usize>,
    /// Issuer and serial number of the certificate, in DER.
    certificate: Vec<u8>,
}

impl Signer {
    /// Starts the signing thread. `done` is called when it has nothing left to do, after it has made
    /// new signatures.
    pub fn start(identity: &Identity, done: impl Fn() + Send + 'static) -> Result<Self> {
        let key = RsaKeyPair::from_pkcs8(&identity.key_pkcs8)
            .map_err(|error| anyhow::anyhow!("{error}"))
            .context("read the cloud's identity key")?;
        let made: Arc<Mutex<Shelf>> = Arc::default();
        let pending = watch::Sender::new(0);
        let (sender, inbox) = mpsc::channel::<String>();
        let (shelf, left) = (made.clone(), pending.clone());
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
                            .insert(digest(&document), Some(signature.into()));
                        left.send_modify(|count| *count -= 1);
                    }
                    done();
                }
            })?;
        Ok(Self {
            made,
            wanted: Mutex::new(sender),
            pending,
            certificate: identity.issuer_and_serial()?,
        })
    }

    /// Returns when all signatures are made that were asked for.
    pub async fn idle(&self) {
        // The sender is `self`, so waiting can't fail.
        let _ = self.pending.subscribe().wait_for(|count| *count == 0).await;
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

fn sign(key: &RsaKeyPair, document: &str) -> Vec<u8> {
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &ring::rand::SystemRandom::new(),
        document.as_bytes(),
        &mut signature,
    )
    .expect("the buffer has the modulus' length");
    signature
}

fn digest(document: &str) -> [u8; 32] {
    Sha256::digest(document).into()
}

impl Notary for Signer {
    fn sign(&self, document: &str) -> Option<(String, String)> {
        let digest = digest(document);
        let mut made = self.made.lock().expect("no holder of this lock panics");
        if let Some(known) = made.get(&digest) {
            let signature = known.clone()?;
            drop(made);
            let signed = pkcs7(document, &signature, &self.certificate);
            return Some((STANDARD.encode(&signature), lines(&STANDARD.encode(signed))));
        }
        if made.len() >= KEPT {
            made.retain(|_, signature| signature.is_none());
        }
        made.insert(digest, None);
        drop(made);
        self.pending.send_modify(|count| *count += 1);
        let _ = self
            .wanted
            .lock()
            .expect("no holder of this lock panics")
            .send(document.to_owned());
        None
    }

    fn is_signing(&self, document: &str) -> bool {
        let made = self.made.lock().expect("no holder of this lock panics");
        matches!(made.get(&digest(document)), Some(None))
    }
}

/// As PEM has it, which is how the text is read.
fn lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"))
        .collect();
    lines.join("\n")
}

/// DER of the object identifiers and algorithms below, each whole.
const SIGNED_DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const SHA256: &[u8] = &[0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0];
const RSA: &[u8] = &[
    0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
];
const VERSION_1: &[u8] = &[2, 1, 1];
const OCTETS: u8 = 4;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT_0: u8 = 0xa0;

/// `ContentInfo` of a `SignedData` without attributes: what is signed is the document itself.
fn pkcs7(document: &str, signature: &[u8], issuer_and_serial: &[u8]) -> Vec<u8> {
    let content = der(EXPLICIT_0, &[&der(OCTETS, &[document.as_bytes()])]);
    let signer = der(
        SEQUENCE,
        &[
            VERSION_1,
            &der(SEQUENCE, &[issuer_and_serial]),
            SHA256,
            RSA,
            &der(OCTETS, &[signature]),
        ],
    );
    let signed = der(
        SEQUENCE,
        &[
            VERSION_1,
            &der(SET, &[SHA256]),
            &der(SEQUENCE, &[DATA, &content]),
            &der(SET, &[&signer]),
        ],
    );
    der(SEQUENCE, &[SIGNED_DATA, &der(EXPLICIT_0, &[&signed])])
}

/// A value of the encoding rules (X.690): tag, length, content.
pub fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut value = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ 0..128) => value.push(short),
        _ => {
            let length = content.len().to_be_bytes();
            let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
            value.push(0x80 | length.len() as u8);
            value.extend_from_slice(length);
        }
    }
    value.extend_from_slice(&content);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Pki;
    use std::path::Path;
    use std::process::Command;

    const DOCUMENT: &str = "{\n  \"instanceId\" : \"i-1\"\n}";

    fn openssl(home: &Path, arguments: &str) -> (bool, Vec<u8>) {
        let ran = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(home)
            .output()
            .expect("openssl is there");
        (ran.status.success(), ran.stdout)
    }

    /// The commands of docs/identity.md.
    #[tokio::test]
    async fn openssl_verifies_both_signatures_with_the_published_certificate() {
        let home = tempfile::tempdir().expect("a directory");
        let pki = Pki::open(home.path()).expect("keys are made");
        let identity = pki.identity().expect("a key and its certificate");
        let signer = Signer::start(&identity, || {}).expect("it starts");
        assert_eq!(signer.sign(DOCUMENT), None);
        signer.idle().await;
        let (signature, pkcs7) = signer.sign(DOCUMENT).expect("it is made");

        let put = |name: &str, bytes: &[u8]| {
            std::fs::write(home.path().join(name), bytes).expect("there is room");
        };
        put("document", DOCUMENT.as_bytes());
        put("forged", DOCUMENT.replace("i-1", "i-2").as_bytes());
        put("signature", &STANDARD.decode(signature).expect("base64"));
        let pem = format!("-----BEGIN PKCS7-----\n{pkcs7}\n-----END PKCS7-----\n");
        put("pkcs7", pem.as_bytes());

        let (made, key) = openssl(home.path(), "x509 -in pki/identity.pem -pubkey -noout");
        assert!(made);
        put("key.pem", &key);
        let verify = "dgst -sha256 -verify key.pem -signature signature";
        assert!(openssl(home.path(), &format!("{verify} document")).0);
        assert!(!openssl(home.path(), &format!("{verify} forged")).0);
        let verify = "smime -verify -inform PEM -in pkcs7 -certfile pki/identity.pem -noverify";
        let (right, content) = openssl(home.path(), &format!("{verify} -nointern -binary"));
        assert!(right);
        assert_eq!(content, DOCUMENT.as_bytes());
        put(
            "pkcs7",
            pem.replace(&pkcs7[..64], &lines(&STANDARD.encode("x".repeat(48))))
                .as_bytes(),
        );
        assert!(!openssl(home.path(), verify).0);
    }

    #[test]
    fn the_certificate_stays_as_long_as_its_key() {
        let home = tempfile::tempdir().expect("a directory");
        let pki = Pki::open(home.path()).expect("keys are made");
        let first = pki.identity().expect("a certificate");
        let again = pki.identity().expect("a certificate");
        assert_eq!(first.certificate, again.certificate);
        std::fs::remove_file(home.path().join("pki/identity-key.der")).expect("it is there");
        let other = pki.identity().expect("a certificate");
        assert_ne!(first.certificate, other.certificate);
    }
}
