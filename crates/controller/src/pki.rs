//! The cloud's own certificate authority and keys, made once per home.
//!
//! ```text
//!  pki/ca.pem, ca-key.pem            signs the API's and the hosts' certificates
//!  pki/api-key.pem                   key of the certificate that the API and the agents' endpoint
//!                                    show; invitations pin it, so it stays
//!  pki/identity-key.der              RSA key that signs instance identity documents
//!  pki/identity.pem                  its certificate, for whoever verifies them
//! ```

use crate::config;
use anyhow::{Context, Result};
use boira_model::Wall;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The name that every agent expects in the controller's certificate.
pub const CONTROLLER_NAME: &str = "controller.boira.internal";

/// How long certificates are good for. Hosts ask for another after a third of it, so one that was
/// switched off over a long summer still gets in.
const VALID_MS: i64 = 365 * 24 * 3600 * 1000;

/// A certificate with its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// A host's certificate in PEM, as the host is told.
#[derive(Serialize)]
pub struct HostCertificate {
    #[serde(rename = "certificate")]
    pub pem: String,
    /// From when on the host should ask for the next.
    pub renew_after: Wall,
}

/// What a host wants signed: its key, proven.
pub struct HostRequest(CertificateSigningRequestParams);

impl HostRequest {
    /// Reads a PKCS#10 request in PEM and checks its signature. Of what it says only the key counts.
    pub fn read(pem: &str) -> Result<Self> {
        CertificateSigningRequestParams::from_pem(pem)
            .map(Self)
            .context("read the certificate request")
    }

    /// As [`Host::key`](boira_model::Host::key) has it.
    pub fn key(&self) -> String {
        hex::encode(Sha256::digest(self.0.public_key.subject_public_key_info()))
    }
}

pub struct Pki {
    directory: PathBuf,
}

impl Pki {
    /// Opens the home's authority; makes it where there is none.
    pub fn open(home: &Path) -> Result<Self> {
        let directory = home.join("pki");
        std::fs::create_dir_all(&directory).context("create the folder of the cloud's keys")?;
        let pki = Self { directory };
        if !pki.path("ca-key.pem").exists() {
            let pair = make_authority()?;
            // The key comes last: a certificate without its key is made again.
            config::replace(&pki.path("ca.pem"), pair.certificate.as_bytes(), 0o644)?;
            config::replace(&pki.path("ca-key.pem"), pair.key.as_bytes(), 0o600)?;
        }
        Ok(pki)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn authority_path(&self) -> PathBuf {
        self.path("ca.pem")
    }

    pub fn authority(&self) -> Result<String> {
        let path = self.authority_path();
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// A certificate for the API under these addresses and the domain of buckets' names, if they have one;
    /// always with the same key.
    pub fn api_pair(&self, addresses: &[IpAddr], s3_domain: Option<&str>) -> Result<Pair> {
        let mut names = vec![CONTROLLER_NAME.to_owned(), "localhost".to_owned()];
        if let Some(domain) = s3_domain {
            names.extend([domain.to_owned(), format!("*.{domain}")]);
        }
        let mut params = CertificateParams::new(names).context("name the API's certificate")?;
        params
            .subject_alt_names
            .extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name = name("Boira API");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = self.api_key()?;
        Ok(Pair {
            certificate: self.sign(params, &key)?,
            key: key.serialize_pem(),
        })
    }

    fn api_key(&self) -> Result<KeyPair> {
        let path = self.path("api-key.pem");
        if !path.exists() {
            let made = KeyPair::generate().context("make the API's key")?;
            config::replace(&path, made.serialize_pem().as_bytes(), 0o600)?;
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        KeyPair::from_pem(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// What `curl --pinnedpubkey` takes: the SHA-256 of the API's public key, in base64.
    pub fn pin(&self) -> Result<String> {
        use base64::Engine;
        let digest = Sha256::digest(self.api_key()?.subject_public_key_info());
        let text = base64::engine::general_purpose::STANDARD.encode(digest);
        Ok(format!("sha256//{text}"))
    }

    /// A certificate for a host's agent, whatever names its request has.
    pub fn host_certificate(&self, host: &str, request: &HostRequest) -> Result<HostCertificate> {
        let mut params =
            CertificateParams::new(vec![host.to_owned()]).context("name a host's certificate")?;
        params.distinguished_name = name(host);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        Ok(HostCertificate {
            pem: self.sign(params, &request.0.public_key)?,
            renew_after: Wall(boira_store::now().0 + VALID_MS / 3),
        })
    }

    fn sign(&self, mut params: CertificateParams, key: &impl PublicKeyData) -> Result<String> {
        let authority_key = std::fs::read_to_string(self.path("ca-key.pem"))
            .context("read the key of the cloud's authority")?;
        let authority_key = KeyPair::from_pem(&authority_key).context("parse the CA's key")?;
        let issuer = Issuer::from_ca_cert_pem(&self.authority()?, authority_key)
            .context("parse the CA's certificate")?;
        let now = time::OffsetDateTime::now_utc();
        // Clocks of old PCs are behind.
        params.not_before = now - time::Duration::days(1);
        params.not_after = now + time::Duration::milliseconds(VALID_MS);
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(key, &issuer)
            .context("sign a certificate")?;
        Ok(certificate.pem())
    }

    /// The key for identity documents and its certificate. Making them takes a second.
    pub fn identity(&self) -> Result<Identity> {
        let (key, certificate) = (self.path("identity-key.der"), self.path("identity.pem"));
        if !key.exists() {
            use rsa::pkcs8::EncodePrivateKey;
            let made = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048)
                .context("make the identity key")?;
            let der = made.to_pkcs8_der().context("write the identity key")?;
            // The certificate of an earlier key verifies nothing any more.
            let _ = std::fs::remove_file(&certificate);
            config::replace(&key, der.as_bytes(), 0o600)?;
        }
        let key_pkcs8 = std::fs::read(&key).with_context(|| format!("read {}", key.display()))?;
        if !certificate.exists() {
            let pem = identity_certificate(&key_pkcs8)?;
            config::replace(&certificate, pem.as_bytes(), 0o644)?;
        }
        let pem = std::fs::read_to_string(&certificate)
            .with_context(|| format!("read {}", certificate.display()))?;
        let certificate = certificates(&pem)?
            .into_iter()
            .next()
            .with_context(|| format!("{} has no certificate", certificate.display()))?;
        Ok(Identity {
            key_pkcs8,
            certificate,
        })
    }
}

/// What signs identity documents.
pub struct Identity {
    pub key_pkcs8: Vec<u8>,
    pub certificate: CertificateDer<'static>,
}

impl Identity {
    /// How a signature names the certificate: DER of its issuer and of its serial number.
    pub fn issuer_and_serial(&self) -> Result<Vec<u8>> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.certificate)
            .context("parse the identity certificate")?;
        const INTEGER: u8 = 2;
        let serial = crate::identity::der(INTEGER, &[parsed.raw_serial()]);
        Ok([parsed.issuer().as_raw(), &serial].concat())
    }
}

fn identity_certificate(key_pkcs8: &[u8]) -> Result<String> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = name("Boira instance identity");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::from_pkcs8_der_and_sign_algo(
        &rustls::pki_types::PrivatePkcs8KeyDer::from(key_pkcs8),
        &rcgen::PKCS_RSA_SHA256,
    )
    .context("read the identity key")?;
    let certificate = params
        .self_signed(&key)
        .context("sign the identity certificate")?;
    Ok(certificate.pem())
}

fn make_authority() -> Result<Pair> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = name("Boira cloud CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().context("make the CA's key")?;
    let certificate = params
        .self_signed(&key)
        .context("sign the CA's certificate")?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Boira");
    name.push(DnType::CommonName, common);
    name
}

/// SHA-256 of a certificate's public key, in hex: how a host is recognised. `None` for what is no
/// certificate.
pub fn key_of(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(hex::encode(Sha256::digest(parsed.public_key().raw)))
}

/// A new key for a host and the request that has it signed, in PEM.
pub fn host_request() -> Result<(String, String)> {
    let key = KeyPair::generate().context("make a key")?;
    let request = CertificateParams::new(Vec::<String>::new())
        .and_then(|params| params.serialize_request(&key))
        .and_then(|request| request.pem())
        .context("write a certificate request")?;
    Ok((key.serialize_pem(), request))
}

pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    rustls_pemfile::certs(&mut pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("read certificates")
}

pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    rustls_pemfile::private_key(&mut pem.as_bytes())
        .context("read a private key")?
        .context("there is no private key in the file")
}
