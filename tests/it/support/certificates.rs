//! Certificates of an authority that nobody else knows, made anew for each test.

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// A server's certificate and key, and who vouches for it; all DER.
pub struct Certified {
    root: Vec<u8>,
    pub leaf: Vec<u8>,
    pub key: Vec<u8>,
}

impl Certified {
    /// A certificate for these names or addresses.
    pub fn for_names(names: &[&str]) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "the tests' own authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("a root");
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).expect("names").signed_by(&key, &authority).expect("a leaf");
        Self { root: authority.der().to_vec(), leaf: leaf.der().to_vec(), key: key.serialize_der() }
    }

    /// Who vouches for it.
    pub fn root_pem(&self) -> String {
        pem("CERTIFICATE", &self.root)
    }

    /// The server's own.
    pub fn leaf_pem(&self) -> String {
        pem("CERTIFICATE", &self.leaf)
    }

    /// Its key.
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key)
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
