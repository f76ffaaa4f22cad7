//! Lives: ctl's tests of the verb policy.
//! Called by: cargo test.
//! May touch: the cases in tests/conformance, folders of its own.
//! Never: leaves out an expectation, but of Services over IPv6, which an end by name cannot ask for.
//!
//! Every case of known answers, first state, as a user would check it: manifests in files, expectations as a PolicyTest.

use std::path::Path;

use serde_json::{Value, json};

use crate::asked::{folder, run};

fn cases() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/cases");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()).collect()
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The state of a case as the objects of a cluster.
fn cluster(case: &Value) -> Value {
    let nodes = list(case, "nodes").iter().map(|node| {
        let addresses: Vec<_> =
            list(node, "ips").iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node["name"], "labels": node["labels"]},
               "status": {"addresses": addresses}})
    });
    let namespaces = list(case, "namespaces").iter().map(|space| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space["name"], "labels": space["labels"]}})
    });
    let pods = list(case, "pods").iter().map(|pod| {
        let port =
            |port: &Value| json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]});
        let ports: Vec<_> = list(pod, "ports").iter().map(port).collect();
        let ips: Vec<_> = list(pod, "ips").iter().map(|ip| json!({"ip": ip})).collect();
        json!({"apiVersion": "v1", "kind": "Pod",
               "metadata": {"name": pod["name"], "namespace": pod["namespace"], "labels": pod["labels"]},
               "spec": {"nodeName": pod["node"], "hostNetwork": pod["host_network"].as_bool().unwrap_or(false),
                        "containers": [{"name": "c", "ports": ports}]},
               "status": {"podIPs": ips}})
    });
    let services = list(case, "services").iter().map(|service| {
        let port = |port: &Value| {
            json!({"name": format!("p{}", port["port"]), "port": port["port"],
                                         "targetPort": port["target_port"], "protocol": port["protocol"]})
        };
        let ports: Vec<_> = list(service, "ports").iter().map(port).collect();
        json!({"apiVersion": "v1", "kind": "Service",
               "metadata": {"name": service["name"], "namespace": service["namespace"]},
               "spec": {"clusterIPs": service["cluster_ips"], "selector": service["selector"], "ports": ports}})
    });
    let items: Vec<_> = nodes.chain(namespaces).chain(pods).chain(services).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// An end as weirctl names it. Of IPv6 it is an address, since names stand for the first one.
fn end(case: &Value, name: &str, v6: bool) -> String {
    let of = |key: &str, matches: &dyn Fn(&Value) -> bool| {
        let found = list(case, key).iter().find(|known| matches(known)).unwrap_or_else(|| panic!("no {name}"));
        let mut ips = list(found, "ips").iter().map(|ip| ip.as_str().unwrap());
        ips.find(|ip| ip.contains(':') == v6).unwrap_or_else(|| panic!("{name} has no such address")).to_owned()
    };
    if let Some(external) = name.strip_prefix("ext:") {
        return of("externals", &|known| known["name"] == external);
    }
    match (v6, name.split_once('/')) {
        (true, Some((namespace, pod))) => of("pods", &|known| known["namespace"] == namespace && known["name"] == pod),
        _ => name.to_owned(),
    }
}

fn expectations(case: &Value) -> Vec<Value> {
    let asked = list(case, "expected").iter().filter(|asked| {
        let v6 = asked["family"] == "ipv6";
        !(v6 && asked["to"].as_str().unwrap().starts_with("svc:"))
    });
    let expectation = |asked: &Value| {
        let v6 = asked["family"] == "ipv6";
        let ends = ["from", "to"].map(|side| end(case, asked[side].as_str().unwrap(), v6));
        let port = format!("{}/{}", asked["port"], asked["protocol"].as_str().unwrap());
        let expect = if asked["allowed"] == true { "allow" } else { "deny" };
        json!({"from": ends[0], "to": ends[1], "port": port, "expect": expect})
    };
    asked.map(expectation).collect()
}

#[test]
fn a_user_who_writes_the_shared_cases_as_tests_sees_them_pass() {
    let (mut run_cases, mut run_tests) = (0, 0);
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        // Objects that the API server would refuse are refused here, too.
        if list(&case, "tags").iter().any(|tag| tag == "inadmissible") {
            continue;
        }
        let tests = expectations(&case);
        let document = json!({"apiVersion": "weir.dev/v1alpha1", "kind": "PolicyTest", "metadata": {"name": name},
                              "spec": {"resources": ["cluster.json", "policies"], "tests": tests}});
        let mut files = vec![
            ("cluster.json".to_owned(), cluster(&case).to_string()),
            ("tests/t.json".to_owned(), document.to_string()),
            // A folder needs a document; some cases have no policy yet.
            ("policies/none.yaml".to_owned(), "apiVersion: v1\nkind: Namespace\nmetadata: {name: unused}\n".to_owned()),
        ];
        for (index, text) in list(&case, "policies").iter().enumerate() {
            files.push((format!("policies/{index}.yaml"), text.as_str().unwrap().to_owned()));
        }
        let document = document
            .to_string()
            .replace("\"cluster.json\"", "\"../cluster.json\"")
            .replace("\"policies\"", "\"../policies\"");
        files[1].1 = document;
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let folder = folder(&files);
        let seen = run(folder.path(), "test tests");
        assert_eq!(
            (seen.code, seen.out.as_str()),
            (Some(0), format!("{} passed, 0 failed\n", tests.len()).as_str()),
            "{name}: {seen:?}"
        );
        (run_cases, run_tests) = (run_cases + 1, run_tests + tests.len());
    }
    assert!(run_cases > 75 && run_tests > 10_000, "{run_cases} cases, {run_tests} tests");
}
