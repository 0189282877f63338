//! SSH keys as text and bytes: making pairs, reading public keys in the formats that AWS takes, and
//! AWS's fingerprints.
//!
//! | key | made here | imported |
//! |---|---|---|
//! | RSA | SHA-1 of the private key as DER PKCS#8 | MD5 of the public key as DER SubjectPublicKeyInfo |
//! | ED25519 | SHA-256 of the public key's SSH form, base64 | the same |
//!
//! ("Verify the fingerprint of your key pair" in the EC2 user guide.)

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boira_api::ApiError;
use boira_api::decode::decode_base64;
use boira_model::KeyKind;
use rand::Rng;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::{DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::traits::PublicKeyParts;
use rsa::{BigUint, RsaPrivateKey, RsaPublicKey};
use sha1::{Digest, Sha1};
use std::ops::RangeInclusive;

/// Bits of the RSA keys that AWS makes.
const RSA_BITS: usize = 2048;
/// Bits of the RSA keys that may be imported; ssh-keygen makes keys of 3072.
const IMPORTED_BITS: RangeInclusive<usize> = 1024..=4096;
/// What stands before the 32 bytes of an ED25519 key in a SubjectPublicKeyInfo (RFC 8410).
const ED25519_SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A new pair. The private half goes to the caller and nowhere else.
pub struct Made {
    pub private_pem: String,
    pub public: Public,
}

/// A public key.
#[derive(Clone, Debug, PartialEq)]
pub struct Public {
    pub kind: KeyKind,
    pub fingerprint: String,
    /// The key in the SSH protocol's form (RFC 4253, 8709).
    blob: Vec<u8>,
}

impl Public {
    /// The line for `authorized_keys`.
    pub fn line(&self, comment: &str) -> String {
        format!(
            "{} {} {comment}",
            algorithm(self.kind),
            STANDARD.encode(&self.blob)
        )
    }
}

/// Makes a pair. RSA takes about a second of a core: not for the writer, nor for an async task.
pub fn make(kind: KeyKind, comment: &str) -> Result<Made, String> {
    match kind {
        KeyKind::Rsa => make_rsa(),
        KeyKind::Ed25519 => make_ed25519(comment),
    }
}

fn make_rsa() -> Result<Made, String> {
    let fault = |error: &dyn std::fmt::Display| format!("the key could not be made: {error}");
    let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, RSA_BITS).map_err(|e| fault(&e))?;
    let pem = key.to_pkcs1_pem(LineEnding::LF).map_err(|e| fault(&e))?;
    let der = key.to_pkcs8_der().map_err(|e| fault(&e))?;
    Ok(Made {
        private_pem: pem.trim_end().to_owned(),
        public: Public {
            kind: KeyKind::Rsa,
            fingerprint: colons(&Sha1::digest(der.as_bytes())),
            blob: rsa_blob(&key.to_public_key()),
        },
    })
}

fn make_ed25519(comment: &str) -> Result<Made, String> {
    let seed: [u8; 32] = rand::rng().random();
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
        .map_err(|error| format!("the key could not be made: {error}"))?;
    let public = ed25519(pair.public_key().as_ref());
    let check: u32 = rand::rng().random();
    Ok(Made {
        private_pem: openssh_private(&seed, &public, comment, check),
        public,
    })
}

/// OpenSSH's own format of private keys, unencrypted (PROTOCOL.key in OpenSSH's source).
fn openssh_private(seed: &[u8; 32], public: &Public, comment: &str, check: u32) -> String {
    let key = &public.blob[public.blob.len() - 32..];
    let mut secret = Vec::new();
    secret.extend(check.to_be_bytes());
    secret.extend(check.to_be_bytes());
    secret.extend(&public.blob);
    push(&mut secret, &[seed.as_slice(), key].concat());
    push(&mut secret, comment.as_bytes());
    let padding = (8 - secret.len() % 8) % 8;
    secret.extend((1u8..=8).take(padding));

    let mut all = b"openssh-key-v1\0".to_vec();
    for part in [b"none".as_slice(), b"none", b""] {
        push(&mut all, part);
    }
    all.extend(1u32.to_be_bytes());
    push(&mut all, &public.blob);
    push(&mut all, &secret);
    let text = STANDARD.encode(all);
    let mut pem = "-----BEGIN OPENSSH PRIVATE KEY-----\n".to_owned();
    for line in text.as_bytes().chunks(70) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    // OpenSSH does not load this format without the last line's end.
    pem + "-----END OPENSSH PRIVATE KEY-----\n"
}

/// Reads what ImportKeyPair was given: OpenSSH's line, the SSH2 form of RFC 4716, or a
/// SubjectPublicKeyInfo as PEM, base64 or DER.
///
/// # Errors
/// `InvalidKey.Format`.
pub fn read(material: &[u8]) -> Result<Public, ApiError> {
    if let Ok(text) = std::str::from_utf8(material) {
        let text = text.trim();
        if text.starts_with("ssh-") {
            return read_line(text).and_then(|blob| of_blob(&blob));
        }
        if text.starts_with("---- BEGIN SSH2 PUBLIC KEY ----") {
            return read_ssh2(text).and_then(|blob| of_blob(&blob));
        }
        if let Some(body) = text.strip_prefix("-----BEGIN PUBLIC KEY-----") {
            let body = body
                .strip_suffix("-----END PUBLIC KEY-----")
                .ok_or_else(bad_format)?;
            return of_spki(&decode_base64(body).ok_or_else(bad_format)?);
        }
        if let Some(der) = decode_base64(text) {
            return of_spki(&der);
        }
    }
    of_spki(material)
}

/// `ssh-rsa AAAA… comment`, one line: whatever is here ends up in guests' `authorized_keys`.
fn read_line(text: &str) -> Result<Vec<u8>, ApiError> {
    if text.lines().count() != 1 {
        return Err(bad_format());
    }
    let mut words = text.split_ascii_whitespace();
    let (name, body) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let blob = decode_base64(body).ok_or_else(bad_format)?;
    match fields(&blob).as_deref() {
        Some([inner, ..]) if *inner == name.as_bytes() => Ok(blob),
        _ => Err(bad_format()),
    }
}

/// RFC 4716: headers may go on over lines that end with a backslash.
fn read_ssh2(text: &str) -> Result<Vec<u8>, ApiError> {
    let mut body = String::new();
    let mut in_header = false;
    let mut ended = false;
    for line in text.lines().skip(1).map(str::trim_end) {
        ended = line == "---- END SSH2 PUBLIC KEY ----";
        if ended {
            break;
        }
        let header = in_header || line.contains(':');
        in_header = header && line.ends_with('\\');
        if !header {
            body.push_str(line);
        }
    }
    let blob = decode_base64(&body).filter(|_| ended);
    blob.ok_or_else(bad_format)
}

fn of_blob(blob: &[u8]) -> Result<Public, ApiError> {
    let public = match fields(blob).as_deref() {
        Some([b"ssh-ed25519", key]) if key.len() == 32 => ed25519(key),
        Some([b"ssh-rsa", e, n]) => {
            let (n, e) = (BigUint::from_bytes_be(n), BigUint::from_bytes_be(e));
            imported_rsa(&RsaPublicKey::new_with_max_size(n, e, 4096).map_err(|_| bad_length())?)?
        }
        _ => return Err(bad_format()),
    };
    // A second way to write the same key would give it a second fingerprint elsewhere.
    if public.blob == blob {
        Ok(public)
    } else {
        Err(bad_format())
    }
}

fn of_spki(der: &[u8]) -> Result<Public, ApiError> {
    if let Some(key) = der
        .strip_prefix(&ED25519_SPKI)
        .filter(|key| key.len() == 32)
    {
        return Ok(ed25519(key));
    }
    imported_rsa(&RsaPublicKey::from_public_key_der(der).map_err(|_| bad_format())?)
}

fn imported_rsa(key: &RsaPublicKey) -> Result<Public, ApiError> {
    if !IMPORTED_BITS.contains(&key.n().bits()) {
        return Err(bad_length());
    }
    let der = key.to_public_key_der().map_err(|_| bad_format())?;
    Ok(Public {
        kind: KeyKind::Rsa,
        fingerprint: colons(&md5::Md5::digest(der.as_bytes())),
        blob: rsa_blob(key),
    })
}

fn ed25519(key: &[u8]) -> Public {
    let mut blob = Vec::new();
    push(&mut blob, b"ssh-ed25519");
    push(&mut blob, key);
    let fingerprint = STANDARD.encode(sha2::Sha256::digest(&blob));
    Public {
        kind: KeyKind::Ed25519,
        fingerprint,
        blob,
    }
}

fn rsa_blob(key: &RsaPublicKey) -> Vec<u8> {
    let mut blob = Vec::new();
    push(&mut blob, b"ssh-rsa");
    for number in [key.e(), key.n()] {
        let mut bytes = number.to_bytes_be();
        // An `mpint` (RFC 4251) is signed; a leading zero keeps it positive.
        if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
            bytes.insert(0, 0);
        }
        push(&mut blob, &bytes);
    }
    blob
}

fn algorithm(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Rsa => "ssh-rsa",
        KeyKind::Ed25519 => "ssh-ed25519",
    }
}

/// Appends a `string` of RFC 4251: its length, then its bytes.
fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

/// The strings that a blob is made of, if it is made of nothing else.
fn fields(mut blob: &[u8]) -> Option<Vec<&[u8]>> {
    let mut fields = Vec::new();
    while !blob.is_empty() {
        let (length, rest) = blob.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        fields.push(field);
        blob = rest;
    }
    Some(fields)
}

fn colons(digest: &[u8]) -> String {
    digest
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

fn bad_format() -> ApiError {
    ApiError::new(
        "InvalidKey.Format",
        "Key is not in valid OpenSSH public key format",
    )
}

fn bad_length() -> ApiError {
    ApiError::new(
        "InvalidKey.Format",
        "RSA keys may have between 1024 and 4096 bits",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsa::pkcs1::DecodeRsaPrivateKey;

    const RSA: &str = include_str!("testdata/rsa.pub");
    const ED25519: &str = include_str!("testdata/ed25519.pub");

    /// `openssl pkey -pubin -outform DER | openssl md5 -c`, `ssh-keygen -l` with padding.
    const RSA_FINGERPRINT: &str = "46:98:cf:7f:92:0b:74:83:b7:cc:7f:c7:6a:b3:7d:b7";
    const ED25519_FINGERPRINT: &str = "0B+G084B00xGlCb6t79V31gxSUHqzmtKO23dhkQfOBI=";

    #[test]
    fn one_key_is_read_in_every_format() {
        let pem = include_str!("testdata/rsa.pem");
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(&base64).expect("PEM");
        let formats: [&[u8]; 5] = [
            RSA.as_bytes(),
            include_bytes!("testdata/rsa.rfc4716"),
            pem.as_bytes(),
            base64.as_bytes(),
            &der,
        ];
        for format in formats {
            let key = read(format).expect("readable");
            assert_eq!(
                (key.kind, key.fingerprint.as_str()),
                (KeyKind::Rsa, RSA_FINGERPRINT)
            );
            assert_eq!(key.line("fixture"), RSA.trim());
        }
        let key = read(ED25519.as_bytes()).expect("readable");
        assert_eq!(
            (key.kind, key.fingerprint.as_str()),
            (KeyKind::Ed25519, ED25519_FINGERPRINT)
        );
        assert_eq!(key.line("fixture"), ED25519.trim());
    }

    #[test]
    fn the_keys_that_ssh_keygen_makes_by_default_are_taken() {
        let line = include_str!("testdata/rsa3072.pub");
        let key = read(line.as_bytes()).expect("3072 bits");
        assert_eq!(
            key.fingerprint,
            "c2:08:11:9b:21:98:c6:51:21:a1:74:a5:bf:2f:4e:ba"
        );
        assert_eq!(key.line("fixture"), line.trim());
    }

    #[test]
    fn other_keys_and_other_text_are_refused() {
        let rest = RSA.trim().strip_prefix("ssh-rsa ").expect("RSA");
        for material in [
            "",
            "ssh-rsa",
            "ssh-rsa AAAA",
            &RSA[..80],
            &format!("ssh-ed25519 {rest}"),
            &format!("command=\"x\" {RSA}"),
            &format!("{}\nssh-ed25519 AAAA second line", RSA.trim()),
            "-----BEGIN PUBLIC KEY-----",
            "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA",
            include_str!("testdata/ecdsa.pub"),
        ] {
            assert_eq!(
                read(material.as_bytes()).expect_err(material).code,
                "InvalidKey.Format"
            );
        }
        assert_eq!(
            read(&[0xff; 64]).expect_err("binary").code,
            "InvalidKey.Format"
        );
    }

    #[test]
    fn a_made_rsa_pair_fits_together() {
        let made = make(KeyKind::Rsa, "k").expect("made");
        let private = RsaPrivateKey::from_pkcs1_pem(&made.private_pem).expect("PKCS#1");
        assert_eq!(private.n().bits(), RSA_BITS);
        assert_eq!(made.public.fingerprint.len(), 59);
        let line = made.public.line("k");
        assert_eq!(
            read(line.as_bytes()).expect("readable").blob,
            rsa_blob(&private.to_public_key())
        );
    }

    #[test]
    fn openssh_reads_a_made_ed25519_key() {
        use std::os::unix::fs::PermissionsExt;
        let made = make(KeyKind::Ed25519, "a comment").expect("made");
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key");
        std::fs::write(&file, &made.private_pem).expect("written");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&file, private).expect("restricted");
        let output = std::process::Command::new("ssh-keygen")
            .args(["-y", "-f"])
            .arg(&file)
            .output()
            .expect("ssh-keygen of openssh-client");
        let line = String::from_utf8_lossy(&output.stdout);
        assert_eq!(line.trim(), made.public.line("a comment"));
    }

    proptest::proptest! {
        #[test]
        fn no_material_panics(material: Vec<u8>, text in "(ssh-rsa |---- BEGIN SSH2 PUBLIC KEY ----\n)?[A-Za-z0-9+/=:\n -]{0,80}") {
            let _ = read(&material);
            let _ = read(text.as_bytes());
        }
    }
}
