//! Lives: transport.
//! Called by: the agent's `doctor`.
//! May touch: certificate files.
//! Never: takes a certificate for valid in any other way than time; who signed it is judged where a connection is made.

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use webpki::{EndEntityCert, Error, KeyUsage};

use crate::TransportError;
use crate::tls::certificates;

/// From when to when a certificate may be used, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: u64,
    /// The last second.
    pub not_after: u64,
}

/// The validity of each certificate of a PEM file; `None` for one that cannot be read as a certificate.
///
/// # Errors
/// The file cannot be read, is not PEM, or has no certificate.
pub fn validities(path: &Path) -> Result<Vec<Option<Validity>>, TransportError> {
    let all = certificates(path, "certificate")?;
    Ok(all.iter().map(|certificate| EndEntityCert::try_from(certificate).ok().and_then(|one| validity(&one))).collect())
}

/// By asking the verifier of connections: its refusals at the ends of time name the certificate's own times.
fn validity(certificate: &EndEntityCert<'_>) -> Option<Validity> {
    let at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        certificate.verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None).err()
    };
    let Error::CertNotValidYet { not_before, .. } = at(0)? else { return None };
    let Error::CertExpired { not_after, .. } = at(u64::MAX)? else { return None };
    Some(Validity { not_before: not_before.as_secs(), not_after: not_after.as_secs() })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_says_from_when_to_when_it_may_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.pem");
        let mut pem = String::new();
        for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
            let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.is_ca = is_ca;
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 2), date_time_ymd(2060, 1, 3));
            pem.push_str(&params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem());
        }
        std::fs::write(&path, pem).unwrap();
        let expected = Validity { not_before: 1_577_923_200, not_after: 2_840_313_600 };
        assert_eq!(validities(&path).unwrap(), [Some(expected); 2]);
        assert!(validities(&dir.path().join("absent")).is_err());
    }
}
