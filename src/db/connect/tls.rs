//! TLS to the database, with the meaning that libpq gives to `sslmode`.
//!
//! `disable`, `prefer` (default) and `require` do not check the certificate; `verify-ca` checks its chain,
//! `verify-full` the host name too.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::ConnectError;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    pub(super) const fn negotiation(self) -> tokio_postgres::config::SslMode {
        match self {
            Self::Disable => tokio_postgres::config::SslMode::Disable,
            Self::Prefer => tokio_postgres::config::SslMode::Prefer,
            Self::Require | Self::VerifyCa | Self::VerifyFull => tokio_postgres::config::SslMode::Require,
        }
    }
}

/// Takes `sslmode` out of the URL, since the driver knows only three of its values.
pub(super) fn split_sslmode(url: &str) -> (String, SslMode) {
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), SslMode::Prefer) };
    let mut mode = SslMode::Prefer;
    let mut kept = Vec::new();
    for pair in query.split('&') {
        match pair {
            "sslmode=disable" => mode = SslMode::Disable,
            "sslmode=prefer" | "sslmode=allow" => mode = SslMode::Prefer,
            "sslmode=require" => mode = SslMode::Require,
            "sslmode=verify-ca" => mode = SslMode::VerifyCa,
            "sslmode=verify-full" => mode = SslMode::VerifyFull,
            other => kept.push(other),
        }
    }
    let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    (url, mode)
}

/// A connector for `mode`; roots are those of `root_cert_file`, else the system's.
pub(super) fn connector(mode: SslMode, root_cert_file: Option<&Path>) -> Result<MakeRustlsConnect, ConnectError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::Tls(error.to_string()))?;
    let config = match mode {
        SslMode::Disable | SslMode::Prefer | SslMode::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Lenient { roots: None, provider }))
            .with_no_client_auth(),
        SslMode::VerifyFull => builder.with_root_certificates(roots(root_cert_file)?).with_no_client_auth(),
        SslMode::VerifyCa => {
            let roots =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots(root_cert_file)?), Arc::clone(&provider))
                    .build()
                    .map_err(|error| ConnectError::Tls(error.to_string()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Lenient { roots: Some(roots), provider }))
                .with_no_client_auth()
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, ConnectError> {
    let mut store = RootCertStore::empty();
    if let Some(file) = file {
        let failed = |error: &dyn std::fmt::Display| ConnectError::Tls(format!("{}: {error}", file.display()));
        for cert in CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))? {
            store.add(cert.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        }
    } else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if store.is_empty() {
        return Err(ConnectError::Tls("no root certificate found".to_owned()));
    }
    Ok(store)
}

/// Checks less than the whole: nothing, or the chain without the name.
#[derive(Debug)]
struct Lenient {
    roots: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        match roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmode_leaves_the_url_and_the_rest_stays() {
        let (url, mode) = split_sslmode("postgres://u@h/d?sslmode=verify-full&application_name=x");
        assert_eq!((url.as_str(), mode), ("postgres://u@h/d?application_name=x", SslMode::VerifyFull));
        assert_eq!(split_sslmode("postgres://u@h/d").1, SslMode::Prefer);
    }
}
