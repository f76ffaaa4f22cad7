//! Lives: collector.
//! Called by: `observe`: once to read a filter, then for each record.
//! May touch: nothing.
//! Never: ignores a filter it does not understand; that would show more than was asked for.

use std::net::IpAddr;

use ipnet::IpNet;
use tonic::Status;
use weir_proto::v1::{Endpoint, Filter, FlowRecord, RecordType, Verdict};

/// A filter that has been understood. All set fields must match; within a list any may.
#[derive(Debug)]
pub struct Matcher {
    filter: Filter,
    addresses: Vec<IpNet>,
    /// Records that ended before are left out; 0 for no bound.
    since_ns: u64,
}

impl Matcher {
    /// Reads a filter; all its faults are reported together.
    pub fn new(filter: Option<Filter>, since_ns: u64) -> Result<Self, Status> {
        let filter = filter.unwrap_or_default();
        let mut faults = Vec::new();
        let mut addresses = Vec::new();
        for text in &filter.address {
            match network(text) {
                Some(network) => addresses.push(network),
                None => faults.push(format!("address \"{text}\" is neither an IP address nor a CIDR block")),
            }
        }
        let ports = filter.port.iter().filter(|port| **port > 65535);
        faults.extend(ports.map(|port| format!("port {port} is above 65535")));
        let verdict = |word: &&i32| matches!(Verdict::try_from(**word), Err(_) | Ok(Verdict::Unspecified));
        faults.extend(filter.verdict.iter().filter(verdict).map(|word| format!("verdict {word} is not known")));
        let kind = |word: &&i32| matches!(RecordType::try_from(**word), Err(_) | Ok(RecordType::Unspecified));
        faults.extend(filter.r#type.iter().filter(kind).map(|word| format!("record type {word} is not known")));
        match faults.is_empty() {
            true => Ok(Self { filter, addresses, since_ns }),
            false => Err(Status::invalid_argument(faults.join("; "))),
        }
    }

    /// Records that ended before are not asked for; 0 for no bound.
    pub const fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// Whether a record is asked for.
    pub fn matches(&self, record: &FlowRecord) -> bool {
        let ends = || record.local.iter().chain(&record.remote);
        any(&self.filter.verdict, |verdict| *verdict == record.verdict)
            && any(&self.filter.r#type, |kind| *kind == record.r#type)
            && any(&self.filter.reason, |reason| *reason == record.reason)
            && any(&self.filter.node, |node| *node == record.node)
            && any(&self.filter.port, |port| ends().any(|end| end.port == *port))
            && any(&self.filter.workload, |name| ends().any(|end| is_workload(end, name)))
            && any(&self.addresses, |network| ends().any(|end| address(end).is_some_and(|a| network.contains(&a))))
            && record.time_ns.max(record.end_ns) >= self.since_ns
    }
}

/// An empty list asks for nothing in particular.
fn any<T>(wanted: &[T], matches: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

/// "name" in any namespace, or "namespace/name".
fn is_workload(end: &Endpoint, name: &str) -> bool {
    let bare = end.workload.rsplit_once('/').map(|(_, bare)| bare);
    !name.is_empty() && (end.workload == name || bare == Some(name))
}

/// An IPv4 address may come in its IPv6-mapped form.
pub fn address(end: &Endpoint) -> Option<IpAddr> {
    match end.address.len() {
        4 => <[u8; 4]>::try_from(&end.address[..]).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(&end.address[..]).ok().map(|bytes| IpAddr::from(bytes).to_canonical()),
        _ => None,
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(workload: &str, address: &str, port: u32) -> Option<Endpoint> {
        let address = match address.parse::<IpAddr>().unwrap() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        Some(Endpoint { workload: workload.to_owned(), address, port, ..Endpoint::default() })
    }

    fn record() -> FlowRecord {
        FlowRecord {
            r#type: RecordType::Verdict.into(),
            verdict: Verdict::Deny.into(),
            reason: "default".to_owned(),
            node: "node-1".to_owned(),
            time_ns: 1000,
            end_ns: 2000,
            local: end("shop/web", "10.0.0.2", 40000),
            remote: end("shop/db", "2001:db8::4", 5432),
            ..FlowRecord::default()
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn workload(names: &[&str]) -> Filter {
        Filter { workload: words(names), ..Filter::default() }
    }

    fn addresses(texts: &[&str]) -> Filter {
        Filter { address: words(texts), ..Filter::default() }
    }

    #[test]
    fn every_field_of_a_filter_is_obeyed() {
        let none = Filter::default;
        let rows = [
            (none(), 0, true),
            (workload(&["web"]), 0, true),
            (workload(&["shop/db"]), 0, true),
            (workload(&["other/web"]), 0, false),
            (workload(&["eb"]), 0, false),
            (workload(&["shop"]), 0, false),
            (workload(&[""]), 0, false),
            (workload(&["none", "web"]), 0, true),
            (addresses(&["10.0.0.2"]), 0, true),
            (addresses(&["10.0.0.3"]), 0, false),
            (addresses(&["10.0.0.0/24"]), 0, true),
            (addresses(&["10.0.0.99/24"]), 0, true),
            (addresses(&["10.1.0.0/24", "2001:db8::/32"]), 0, true),
            (addresses(&["::ffff:10.0.0.2"]), 0, true),
            (addresses(&["::/0"]), 0, true),
            (addresses(&["192.168.0.0/16"]), 0, false),
            (Filter { port: vec![5432], ..none() }, 0, true),
            (Filter { port: vec![40000], ..none() }, 0, true),
            (Filter { port: vec![80, 443], ..none() }, 0, false),
            (Filter { verdict: vec![Verdict::Deny.into()], ..none() }, 0, true),
            (Filter { verdict: vec![Verdict::Allow.into(), Verdict::Audit.into()], ..none() }, 0, false),
            (Filter { reason: words(&["rule", "default"]), ..none() }, 0, true),
            (Filter { reason: words(&["rule"]), ..none() }, 0, false),
            (Filter { r#type: vec![RecordType::Verdict.into()], ..none() }, 0, true),
            (Filter { r#type: vec![RecordType::Close.into()], ..none() }, 0, false),
            (Filter { node: words(&["node-1"]), ..none() }, 0, true),
            (Filter { node: words(&["node-2"]), ..none() }, 0, false),
            (Filter { node: words(&["node-1"]), port: vec![80], ..none() }, 0, false),
            (none(), 2000, true),
            (none(), 2001, false),
        ];
        for (filter, since_ns, expected) in rows {
            let matcher = Matcher::new(Some(filter.clone()), since_ns).unwrap();
            assert_eq!(matcher.matches(&record()), expected, "{filter:?} since {since_ns}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        let record = FlowRecord { local: end("", "::ffff:192.0.2.1", 1), ..FlowRecord::default() };
        assert!(Matcher::new(Some(addresses(&["192.0.2.0/24"])), 0).unwrap().matches(&record));
        assert!(!Matcher::new(Some(addresses(&["192.0.2.0/24"])), 0).unwrap().matches(&FlowRecord::default()));
    }

    #[test]
    fn all_faults_of_a_filter_are_reported_together() {
        let filter = Filter {
            address: words(&["10.0.0.0/33", "web"]),
            port: vec![70000],
            verdict: vec![0, 9],
            r#type: vec![0, 9],
            ..Filter::default()
        };
        let status = Matcher::new(Some(filter), 0).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message().split("; ").count(), 7, "{}", status.message());
    }
}
