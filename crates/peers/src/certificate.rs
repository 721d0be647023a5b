//! A certificate authority of its own for each server, and the server's certificate.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::fs;
use std::path::{Path, PathBuf};

/// The files of a server that speaks TLS as `localhost` and `127.0.0.1`.
pub(crate) struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    /// Makes the files in a new folder.
    pub(crate) fn new(folder: &Path) -> Certificate {
        fs::create_dir(folder).expect("make a directory");
        let write = |name: &str, text: String| {
            fs::write(folder.join(name), text).expect("write a certificate");
        };
        let ca_key = KeyPair::generate().expect("make a key");
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "an authority for tests");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        write("ca.pem", ca.self_signed(&ca_key).expect("sign a certificate").pem());

        let key = KeyPair::generate().expect("make a key");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut server = CertificateParams::new(names).expect("valid names");
        server.distinguished_name.push(DnType::CommonName, "localhost");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = server.signed_by(&key, &Issuer::new(ca, ca_key));
        write("server.pem", signed.expect("sign a certificate").pem());
        write("server.key", key.serialize_pem());
        Certificate { folder: folder.to_owned() }
    }

    /// What clients need to know of.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The lines of `rabbitmq.conf`.
    pub(crate) fn options(&self) -> String {
        let folder = self.folder.display();
        format!(
            "ssl_options.cacertfile = {folder}/ca.pem\n\
             ssl_options.certfile = {folder}/server.pem\n\
             ssl_options.keyfile = {folder}/server.key\n\
             ssl_options.verify = verify_none\n\
             ssl_options.fail_if_no_peer_cert = false\n\
             ssl_options.versions.1 = tlsv1.3\n\
             ssl_options.versions.2 = tlsv1.2\n"
        )
    }
}
