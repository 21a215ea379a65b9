//! TLS: a certificate and its key, checked before anything is served with them, and the handshake.
//!
//! The protocol is rustls'. What it computes with is graviola: Rust and assembly that is proven to compute what it should, and that
//! needs neither a C compiler nor cmake, for this machine or another. It wants instructions that processors have had for
//! ten years; one without them is told so.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rustls::{
    ServerConfig, SignatureScheme,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem, pem::PemObject as _},
    sign::SigningKey,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use webpki::{EndEntityCert, KeyUsage};

use crate::socket::Bare;

/// The most bytes of a file with certificates or a key.
const BYTES_MAX: u64 = 1 << 20;
/// Ways to sign, one of which every key has that we can use.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// An instruction is missing.
    #[error(
        "this processor lacks instructions that TLS is computed with: AES, AVX2, ADX, BMI2 and PCLMULQDQ, or NEON with AES, SHA2 and PMULL"
    )]
    Processor,
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    Broken {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key belongs to another certificate.
    #[error("{}: is not the key of {}", key.display(), certificate.display())]
    OtherKey {
        /// The file of the key.
        key: PathBuf,
        /// That of the certificate.
        certificate: PathBuf,
    },
}

/// What a server shows of itself, and proves that it is.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls") // the key is nobody's business
    }
}

impl Tls {
    /// Reads a certificate, with those that it hangs on behind it, and its key, as PEM.
    ///
    /// # Errors
    /// They cannot be read or used, do not fit, or are not valid now.
    pub fn load(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        if !graviola::util::is_cpu_supported() {
            return Err(TlsError::Processor);
        }
        let provider = Arc::new(rustls_graviola::default_provider());
        let chain = chain(certificate)?;
        let signer = signer(key, &provider)?;
        if !fits(&*signer, &chain[0], &provider) {
            return Err(TlsError::OtherKey { key: key.into(), certificate: certificate.into() });
        }
        let broken = |error: rustls::Error| TlsError::Broken { path: certificate.into(), why: error.to_string() };
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let resolver = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, signer));
        let mut config = builder.map_err(broken)?.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands.
    pub(crate) async fn accept(&self, bare: Bare) -> io::Result<TlsStream<Bare>> {
        self.0.accept(bare).await
    }
}

/// A file's bytes, as far as they may be read; it may be a pipe.
fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|source| TlsError::Read { path: path.into(), source })?;
    Ok(bytes)
}

/// The certificates in a file, all of which are valid now.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let broken = |why: String| TlsError::Broken { path: path.into(), why };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let chain = chain.map_err(|error| broken(no_pem(&error)))?;
    if chain.is_empty() {
        return Err(broken("there is no certificate in it: it should say BEGIN CERTIFICATE".into()));
    }
    chain.iter().try_for_each(|certificate| check(certificate).map_err(broken))?;
    Ok(chain)
}

/// Whether a certificate can be read and is valid now.
fn check(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let read = EndEntityCert::try_from(certificate).map_err(|error| format!("the certificate is broken: {error:?}"))?;
    // Nobody is trusted here, so that fails in any case: but first of all where the time is wrong.
    let checked = read.verify_for_usage(&[], &[], &[], UnixTime::now(), KeyUsage::server_auth(), None, None);
    match checked.err() {
        Some(webpki::Error::CertExpired { not_after, .. }) => {
            Err(format!("the certificate has expired: it was valid until {}", time(not_after)))
        }
        Some(webpki::Error::CertNotValidYet { not_before, .. }) => {
            Err(format!("the certificate is not valid yet: it will be from {}", time(not_before)))
        }
        Some(webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::InvalidCertValidity) => {
            Err("the certificate is broken".into())
        }
        _ => Ok(()),
    }
}

fn time(time: UnixTime) -> String {
    Timestamp::from_second(time.as_secs() as i64).map_or_else(|_| "another age".into(), |time| time.to_string())
}

/// What is wrong with a file, in letters where the library has numbers.
fn no_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "is no PEM: a line with END is missing".into(),
        pem::Error::IllegalSectionStart { .. } => "is no PEM: a line with BEGIN is broken".into(),
        error => format!("is no PEM: {error}"),
    }
}

/// The key in a file.
fn signer(path: &Path, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, TlsError> {
    let broken = |why: String| TlsError::Broken { path: path.into(), why };
    let key = PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            broken("there is no key in it: it should say BEGIN PRIVATE KEY, and not be encrypted".into())
        }
        error => broken(no_pem(&error)),
    })?;
    let signer = provider.key_provider.load_private_key(key);
    signer.map_err(|_| broken("the key is broken, or of a kind that we cannot use: take P-256, P-384, Ed25519, or RSA of 2048 bits or more".into()))
}

/// Whether what a key signs is what a certificate vouches for.
fn fits(key: &dyn SigningKey, certificate: &CertificateDer<'_>, provider: &CryptoProvider) -> bool {
    const MESSAGE: &[u8] = b"whose key is this?";
    let Some(signer) = key.choose_scheme(&SCHEMES) else { return false };
    let (Ok(signature), Ok(certificate)) = (signer.sign(MESSAGE), EndEntityCert::try_from(certificate)) else {
        return false;
    };
    let ways = provider.signature_verification_algorithms.mapping;
    let ways = ways.iter().filter(|(scheme, _)| *scheme == signer.scheme()).flat_map(|(_, ways)| ways.iter());
    ways.into_iter().any(|way| certificate.verify_signature(*way, MESSAGE, &signature).is_ok())
}
