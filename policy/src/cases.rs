//! Lives: host, tests only: the table that says how policies behave.
//! Called by: this crate's tests (evaluator and compiled tables) and the live tests (real traffic).
//! May touch: nothing.
//! Never: a row whose answer was copied from what the code said; each follows from the words of the documents.

use weir_common::verdict::{Reason, Verdict};

/// Documents and what they mean.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// A promise, in words.
    pub name: &'static str,
    /// The policies under test; [`WORLD`] is applied with them.
    pub documents: &'static str,
    /// What follows.
    pub probes: &'static [Probe],
}

/// One opening and its verdict. Ends are "namespace/name" of a workload, or an address.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The end that opens.
    pub from: &'static str,
    /// The end that is called.
    pub to: &'static str,
    /// Protocol by name or number.
    pub protocol: &'static str,
    /// Port that is called.
    pub port: u16,
    /// The verdict over both ends.
    pub verdict: Verdict,
    /// The reason of the end that decided.
    pub reason: Reason,
    /// Policy and rule that decided, as "policy rule"; empty for none.
    pub rule: &'static str,
}

const fn probe(
    (from, to): (&'static str, &'static str),
    (protocol, port): (&'static str, u16),
    verdict: Verdict,
    reason: Reason,
    rule: &'static str,
) -> Probe {
    Probe { from, to, protocol, port, verdict, reason, rule }
}

use Reason::{Default as Fallback, NoPolicy, Rule};
use Verdict::{Allow, Audit, Deny};

/// Four services that every case starts from: three here, one elsewhere.
pub const WORLD: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web, tier: front}}
spec: {cgroup: web, addresses: [10.0.0.2, "fd00::2"]}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app: api, tier: back}}
spec:
  cgroup: api
  addresses: [10.0.0.3, "fd00::3"]
  ports: [{name: http, port: 8080}, {name: dns, protocol: UDP, port: 5353}]
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: data, labels: {app: db}}
spec: {cgroup: db, addresses: [10.0.1.4, "fd00:1::4"]}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: client, namespace: outside, labels: {app: client}}
spec: {addresses: [10.9.0.5, "fd00:9::5"]}
"#;

/// Every case.
pub const CASES: &[Case] = &[
    Case {
        name: "without policies everything is open",
        documents: "",
        probes: &[
            probe(("shop/web", "shop/api"), ("TCP", 8080), Allow, NoPolicy, ""),
            probe(("outside/client", "data/db"), ("UDP", 53), Allow, NoPolicy, ""),
            probe(("192.0.2.1", "shop/web"), ("TCP", 80), Allow, NoPolicy, ""),
        ],
    },
    Case {
        name: "an ingress policy closes its workloads to all but its rules, and only them",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: api, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ingress:
  - name: from-web
    from: [{workloadSelector: {matchLabels: {app: web}}}]
    ports: [{port: 8080}]
"#,
        probes: &[
            probe(("shop/web", "shop/api"), ("TCP", 8080), Allow, Rule, "Policy/shop/api ingress[0] from-web"),
            probe(("shop/web", "shop/api"), ("TCP", 8081), Deny, Fallback, "Policy/shop/api default ingress"),
            probe(("shop/web", "shop/api"), ("UDP", 8080), Deny, Fallback, "Policy/shop/api default ingress"),
            probe(("data/db", "shop/api"), ("TCP", 8080), Deny, Fallback, "Policy/shop/api default ingress"),
            probe(("10.0.0.2", "shop/api"), ("TCP", 8080), Allow, Rule, "Policy/shop/api ingress[0] from-web"),
            probe(("fd00::2", "shop/api"), ("TCP", 8080), Allow, Rule, "Policy/shop/api ingress[0] from-web"),
            probe(("192.0.2.1", "shop/api"), ("TCP", 8080), Deny, Fallback, "Policy/shop/api default ingress"),
            probe(("shop/api", "shop/web"), ("TCP", 8080), Allow, NoPolicy, ""),
            probe(("shop/api", "data/db"), ("TCP", 5432), Allow, NoPolicy, ""),
        ],
    },
    Case {
        name: "an empty list of rules allows nothing, an empty rule everything",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: closed, namespace: data}
spec: {ingress: []}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: open, namespace: shop}
spec: {ingress: [{}]}
"#,
        probes: &[
            probe(("shop/web", "data/db"), ("TCP", 5432), Deny, Fallback, "Policy/data/closed default ingress"),
            probe(("data/db", "192.0.2.1"), ("TCP", 443), Allow, NoPolicy, ""),
            probe(("192.0.2.1", "shop/web"), ("47", 0), Allow, Rule, "Policy/shop/open ingress[0]"),
        ],
    },
    Case {
        name: "egress needs a rule or its name in policyTypes to be closed",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: typeless, namespace: shop}
spec: {workloadSelector: {matchLabels: {app: api}}, egress: []}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: typed, namespace: data}
spec: {policyTypes: [Egress]}
"#,
        probes: &[
            probe(("shop/api", "192.0.2.1"), ("TCP", 443), Allow, NoPolicy, ""),
            probe(("192.0.2.1", "shop/api"), ("TCP", 443), Deny, Fallback, "Policy/shop/typeless default ingress"),
            probe(("data/db", "192.0.2.1"), ("TCP", 443), Deny, Fallback, "Policy/data/typed default egress"),
            probe(("192.0.2.1", "data/db"), ("TCP", 443), Allow, NoPolicy, ""),
        ],
    },
    Case {
        name: "both ends must agree",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: data}}}]
  - to: [{workloadSelector: {matchLabels: {app: api}}}]
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: db, namespace: data}
spec:
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
      workloadSelector: {matchExpressions: [{key: tier, operator: In, values: [back]}]}
"#,
        probes: &[
            probe(("shop/web", "data/db"), ("TCP", 5432), Deny, Fallback, "Policy/data/db default ingress"),
            probe(("shop/api", "data/db"), ("TCP", 5432), Allow, Rule, "Policy/data/db ingress[0]"),
            probe(("shop/web", "shop/api"), ("TCP", 8080), Allow, Rule, "Policy/shop/web egress[1]"),
            probe(("shop/web", "outside/client"), ("TCP", 80), Deny, Fallback, "Policy/shop/web default egress"),
            probe(("outside/client", "data/db"), ("TCP", 5432), Deny, Fallback, "Policy/data/db default ingress"),
        ],
    },
    Case {
        name: "a selector alone speaks of its own namespace, NotIn and DoesNotExist of workloads without the label too",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: db, namespace: data}
spec: {ingress: [{from: [{workloadSelector: {}}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: api, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{namespaceSelector: {}, workloadSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]
    ports: [{port: 1}]
  - from: [{namespaceSelector: {}, workloadSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [front]}]}}]
    ports: [{port: 2}]
"#,
        probes: &[
            probe(("shop/web", "data/db"), ("TCP", 5432), Deny, Fallback, "Policy/data/db default ingress"),
            probe(("data/db", "shop/api"), ("TCP", 1), Allow, Rule, "Policy/shop/api ingress[0]"),
            probe(("shop/web", "shop/api"), ("TCP", 1), Deny, Fallback, "Policy/shop/api default ingress"),
            probe(("outside/client", "shop/api"), ("TCP", 2), Allow, Rule, "Policy/shop/api ingress[1]"),
            probe(("shop/web", "shop/api"), ("TCP", 2), Deny, Fallback, "Policy/shop/api default ingress"),
            probe(("192.0.2.1", "shop/api"), ("TCP", 2), Deny, Fallback, "Policy/shop/api default ingress"),
        ],
    },
    Case {
        name: "a block leaves out its exceptions, holds workloads' addresses too, and knows its family",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16, 10.0.1.0/24]}}]
  - from: [{ipBlock: {cidr: 10.9.8.0/24}}]
  egress:
  - to: [{ipBlock: {cidr: 0.0.0.0/0}}]
    ports: [{port: 4}]
  - to: [{ipBlock: {cidr: "::/0"}}]
    ports: [{port: 6}]
"#,
        probes: &[
            probe(("10.1.2.3", "shop/web"), ("TCP", 80), Allow, Rule, "Policy/shop/web ingress[0]"),
            probe(("10.9.0.5", "shop/web"), ("TCP", 80), Deny, Fallback, "Policy/shop/web default ingress"),
            probe(("10.9.8.7", "shop/web"), ("TCP", 80), Allow, Rule, "Policy/shop/web ingress[1]"),
            probe(("11.0.0.1", "shop/web"), ("TCP", 80), Deny, Fallback, "Policy/shop/web default ingress"),
            probe(("10.0.0.3", "shop/web"), ("TCP", 80), Allow, Rule, "Policy/shop/web ingress[0]"),
            probe(("10.0.1.4", "shop/web"), ("TCP", 80), Deny, Fallback, "Policy/shop/web default ingress"),
            probe(("fd00::3", "shop/web"), ("TCP", 80), Deny, Fallback, "Policy/shop/web default ingress"),
            probe(("shop/web", "192.0.2.1"), ("TCP", 4), Allow, Rule, "Policy/shop/web egress[0]"),
            probe(("shop/web", "192.0.2.1"), ("TCP", 6), Deny, Fallback, "Policy/shop/web default egress"),
            probe(("shop/web", "2001:db8::1"), ("TCP", 6), Allow, Rule, "Policy/shop/web egress[1]"),
            probe(("shop/web", "2001:db8::1"), ("TCP", 4), Deny, Fallback, "Policy/shop/web default egress"),
            probe(("shop/web", "fd00::3"), ("TCP", 6), Allow, Rule, "Policy/shop/web egress[1]"),
        ],
    },
    Case {
        name: "an entity is no workload",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: web}}
  ingress:
  - {name: out, from: [{entity: world}], ports: [{port: 1}]}
  - {name: here, from: [{entity: host}], ports: [{port: 2}]}
  - {name: self, from: [{entity: loopback}], ports: [{port: 3}]}
"#,
        probes: &[
            probe(("192.0.2.1", "shop/web"), ("TCP", 1), Allow, Rule, "Policy/shop/web ingress[0] out"),
            probe(("outside/client", "shop/web"), ("TCP", 1), Deny, Fallback, "Policy/shop/web default ingress"),
            probe(("10.0.0.1", "shop/web"), ("TCP", 1), Deny, Fallback, "Policy/shop/web default ingress"),
            probe(("10.0.0.1", "shop/web"), ("TCP", 2), Allow, Rule, "Policy/shop/web ingress[1] here"),
            probe(("127.0.0.1", "shop/web"), ("TCP", 3), Allow, Rule, "Policy/shop/web ingress[2] self"),
            probe(("::1", "shop/web"), ("TCP", 3), Allow, Rule, "Policy/shop/web ingress[2] self"),
            probe(("127.0.0.1", "shop/web"), ("TCP", 1), Deny, Fallback, "Policy/shop/web default ingress"),
        ],
    },
    Case {
        name: "ranges include both ends, a protocol alone all of its ports, and no protocol opens another",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: db, namespace: data}
spec:
  ingress:
  - ports: [{port: 1000, endPort: 1002}, {protocol: UDP}, {protocol: ICMP}, {protocol: 47}]
"#,
        probes: &[
            probe(("shop/web", "data/db"), ("TCP", 999), Deny, Fallback, "Policy/data/db default ingress"),
            probe(("shop/web", "data/db"), ("TCP", 1000), Allow, Rule, "Policy/data/db ingress[0]"),
            probe(("shop/web", "data/db"), ("TCP", 1002), Allow, Rule, "Policy/data/db ingress[0]"),
            probe(("shop/web", "data/db"), ("TCP", 1003), Deny, Fallback, "Policy/data/db default ingress"),
            probe(("shop/web", "data/db"), ("UDP", 65535), Allow, Rule, "Policy/data/db ingress[0]"),
            probe(("shop/web", "data/db"), ("ICMP", 0), Allow, Rule, "Policy/data/db ingress[0]"),
            probe(("shop/web", "data/db"), ("47", 0), Allow, Rule, "Policy/data/db ingress[0]"),
            probe(("shop/web", "data/db"), ("ICMPv6", 0), Deny, Fallback, "Policy/data/db default ingress"),
            probe(("shop/web", "data/db"), ("SCTP", 0), Deny, Fallback, "Policy/data/db default ingress"),
        ],
    },
    Case {
        name: "the lower priority decides, and at equal priority deny beats allow",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: a-broad, namespace: shop}
spec: {workloadSelector: {matchLabels: {app: api}}, priority: 100, ingress: [{ports: [{port: 1, endPort: 9}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: b-first, namespace: shop}
spec: {workloadSelector: {matchLabels: {app: api}}, priority: 10, ingress: [{action: allow, ports: [{port: 2}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: c-deny, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: api}}
  priority: 100
  ingress: [{action: deny, ports: [{port: 2}, {port: 3}]}]
"#,
        probes: &[
            probe(("shop/web", "shop/api"), ("TCP", 1), Allow, Rule, "Policy/shop/a-broad ingress[0]"),
            probe(("shop/web", "shop/api"), ("TCP", 2), Allow, Rule, "Policy/shop/b-first ingress[0]"),
            probe(("shop/web", "shop/api"), ("TCP", 3), Deny, Rule, "Policy/shop/c-deny ingress[0]"),
            probe(("shop/web", "shop/api"), ("TCP", 10), Deny, Fallback, "Policy/shop/b-first default ingress"),
        ],
    },
    Case {
        name: "a default of allow lets the rest pass, unless another policy's default denies",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: lenient, namespace: shop}
spec: {defaultAction: allow, ingress: [{action: deny, ports: [{port: 23}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: strict, namespace: shop}
spec: {workloadSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: 80}]}]}
"#,
        probes: &[
            probe(("data/db", "shop/web"), ("TCP", 80), Allow, Fallback, "Policy/shop/lenient default ingress"),
            probe(("data/db", "shop/web"), ("TCP", 23), Deny, Rule, "Policy/shop/lenient ingress[0]"),
            probe(("data/db", "shop/api"), ("TCP", 80), Allow, Rule, "Policy/shop/strict ingress[0]"),
            probe(("data/db", "shop/api"), ("TCP", 81), Deny, Fallback, "Policy/shop/strict default ingress"),
        ],
    },
    Case {
        name: "audit lets pass what it would deny, and never opens what enforcement denies",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: trial, namespace: shop}
spec: {mode: audit, ingress: [{ports: [{port: 80}, {port: 81}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: real, namespace: shop}
spec: {workloadSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: 80}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: trial-deny, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: api}}
  mode: audit
  priority: 1
  defaultAction: allow
  ingress: [{action: deny, from: [{workloadSelector: {matchLabels: {app: web}}}]}]
"#,
        probes: &[
            probe(("data/db", "shop/web"), ("TCP", 80), Allow, NoPolicy, ""),
            probe(("data/db", "shop/web"), ("TCP", 22), Audit, Fallback, "Policy/shop/trial default ingress"),
            probe(("data/db", "shop/api"), ("TCP", 80), Allow, Rule, "Policy/shop/real ingress[0]"),
            probe(("data/db", "shop/api"), ("TCP", 81), Deny, Fallback, "Policy/shop/real default ingress"),
            probe(("data/db", "shop/api"), ("TCP", 82), Deny, Fallback, "Policy/shop/real default ingress"),
            probe(("shop/web", "shop/api"), ("TCP", 80), Audit, Rule, "Policy/shop/trial-deny ingress[0]"),
        ],
    },
    Case {
        name: "rules of a direction that policyTypes leaves out do nothing",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: api, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress]
  ingress: [{}]
  egress: [{action: deny}]
"#,
        probes: &[
            probe(("shop/api", "192.0.2.1"), ("TCP", 443), Allow, NoPolicy, ""),
            probe(("192.0.2.1", "shop/api"), ("TCP", 443), Allow, Rule, "Policy/shop/api ingress[0]"),
        ],
    },
    Case {
        name: "the admin tier is asked first, pass goes on, and the baseline fills what no policy of the namespace isolates",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: guard, namespace: platform}
spec:
  tier: admin
  namespaceSelector: {}
  priority: 10
  ingress:
  - {name: from-web, action: pass, from: [{namespaceSelector: {}, workloadSelector: {matchLabels: {app: web}}}]}
  - {action: allow, from: [{entity: world}], ports: [{port: 443}]}
  - {action: deny, from: [{entity: world}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: closed, namespace: platform}
spec:
  tier: baseline
  namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [shop, data]}]}
  ingress: [{action: allow, ports: [{port: 80}]}, {action: deny}]
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: api, namespace: shop}
spec: {workloadSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: 8080}]}]}
"#,
        probes: &[
            probe(("192.0.2.1", "shop/api"), ("TCP", 443), Allow, Rule, "Policy/platform/guard ingress[1]"),
            probe(("192.0.2.1", "shop/api"), ("TCP", 8080), Deny, Rule, "Policy/platform/guard ingress[2]"),
            probe(("shop/web", "shop/api"), ("TCP", 8080), Allow, Rule, "Policy/shop/api ingress[0]"),
            probe(("shop/web", "shop/api"), ("TCP", 80), Deny, Fallback, "Policy/shop/api default ingress"),
            probe(("shop/web", "data/db"), ("TCP", 80), Allow, Rule, "Policy/platform/closed ingress[0]"),
            probe(("shop/web", "data/db"), ("TCP", 5432), Deny, Rule, "Policy/platform/closed ingress[1]"),
            probe(("data/db", "outside/client"), ("TCP", 80), Allow, NoPolicy, ""),
        ],
    },
    Case {
        name: "what has expired is as if it were not written, policy or rule",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: db, namespace: data}
spec:
  expiresAt: 2500-01-01T00:00:00Z
  ingress:
  - {expiresAt: 2020-01-01T00:00:00+02:00, ports: [{port: 1}]}
  - {expiresAt: "2500-01-01T00:00:00Z", ports: [{port: 2}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: open, namespace: data}
spec: {expiresAt: 2020-01-01T00:00:00Z, priority: 0, ingress: [{}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: closed, namespace: shop}
spec: {expiresAt: 2020-01-01T00:00:00Z, policyTypes: [Ingress, Egress]}
"#,
        probes: &[
            probe(("shop/web", "data/db"), ("TCP", 1), Deny, Fallback, "Policy/data/db default ingress"),
            probe(("shop/web", "data/db"), ("TCP", 2), Allow, Rule, "Policy/data/db ingress[1]"),
            probe(("data/db", "shop/web"), ("TCP", 3), Allow, NoPolicy, ""),
        ],
    },
    Case {
        name: "a staged policy has no part in any verdict",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: later, namespace: shop}
spec: {mode: staged, policyTypes: [Ingress, Egress], sockets: [raw]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: wide, namespace: data}
spec: {mode: staged, priority: 0, ingress: [{}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: db, namespace: data}
spec: {ingress: [{ports: [{port: 5432}]}]}
"#,
        probes: &[
            probe(("data/db", "shop/web"), ("TCP", 80), Allow, NoPolicy, ""),
            probe(("shop/web", "192.0.2.1"), ("TCP", 443), Allow, NoPolicy, ""),
            probe(("shop/web", "data/db"), ("TCP", 5432), Allow, Rule, "Policy/data/db ingress[0]"),
            probe(("shop/web", "data/db"), ("TCP", 22), Deny, Fallback, "Policy/data/db default ingress"),
        ],
    },
    Case {
        name: "a port's name is what the called workload gives it, name and protocol together",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: all, namespace: shop}
spec:
  ingress: [{ports: [{port: http}, {protocol: UDP, port: http}, {protocol: UDP, port: dns}]}]
"#,
        probes: &[
            probe(("data/db", "shop/api"), ("TCP", 8080), Allow, Rule, "Policy/shop/all ingress[0]"),
            probe(("data/db", "shop/api"), ("TCP", 5353), Deny, Fallback, "Policy/shop/all default ingress"),
            probe(("data/db", "shop/api"), ("UDP", 5353), Allow, Rule, "Policy/shop/all ingress[0]"),
            probe(("data/db", "shop/api"), ("UDP", 8080), Deny, Fallback, "Policy/shop/all default ingress"),
            probe(("data/db", "shop/web"), ("TCP", 8080), Deny, Fallback, "Policy/shop/all default ingress"),
        ],
    },
    Case {
        name: "a service is what is behind it: the workloads with its labels, or what its endpoint slices list",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - {to: [{service: {name: api}}]}
  - {to: [{service: {name: db, namespace: data}}, {service: {name: nowhere}}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: api}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: data}
spec: {ports: [{port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: data, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints:
- {addresses: [10.0.1.4], conditions: {ready: true}}
- {addresses: [192.0.2.7]}
- {addresses: [192.0.2.8], conditions: {ready: false}}
ports: [{port: 5432}]
"#,
        probes: &[
            probe(("shop/web", "shop/api"), ("TCP", 8080), Allow, Rule, "Policy/shop/web egress[0]"),
            probe(("shop/web", "data/db"), ("TCP", 5432), Allow, Rule, "Policy/shop/web egress[1]"),
            probe(("shop/web", "192.0.2.7"), ("TCP", 5432), Allow, Rule, "Policy/shop/web egress[1]"),
            probe(("shop/web", "192.0.2.8"), ("TCP", 5432), Deny, Fallback, "Policy/shop/web default egress"),
            probe(("shop/web", "outside/client"), ("TCP", 5432), Deny, Fallback, "Policy/shop/web default egress"),
        ],
    },
    Case {
        name: "nodes are not the world, and addresses for pods that nobody has are unknown",
        documents: r#"
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.20.0.0/16]}
status: {addresses: [{type: InternalIP, address: 198.51.100.2}]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: web}}
  ingress:
  - {from: [{entity: world}], ports: [{port: 1}]}
  - {from: [{entity: node}], ports: [{port: 2}]}
  - {from: [{entity: unknown}], ports: [{port: 3}]}
  - {from: [{entity: host}], ports: [{port: 4}]}
"#,
        probes: &[
            probe(("198.51.100.2", "shop/web"), ("TCP", 1), Deny, Fallback, "Policy/shop/web default ingress"),
            probe(("198.51.100.2", "shop/web"), ("TCP", 2), Allow, Rule, "Policy/shop/web ingress[1]"),
            probe(("198.51.100.2", "shop/web"), ("TCP", 4), Deny, Fallback, "Policy/shop/web default ingress"),
            probe(("10.0.0.1", "shop/web"), ("TCP", 2), Allow, Rule, "Policy/shop/web ingress[1]"),
            probe(("10.0.0.1", "shop/web"), ("TCP", 4), Allow, Rule, "Policy/shop/web ingress[3]"),
            probe(("10.20.1.2", "shop/web"), ("TCP", 3), Allow, Rule, "Policy/shop/web ingress[2]"),
            probe(("10.20.1.2", "shop/web"), ("TCP", 1), Deny, Fallback, "Policy/shop/web default ingress"),
            probe(("192.0.2.1", "shop/web"), ("TCP", 1), Allow, Rule, "Policy/shop/web ingress[0]"),
            probe(("192.0.2.1", "shop/web"), ("TCP", 3), Deny, Fallback, "Policy/shop/web default ingress"),
        ],
    },
    Case {
        name: "ports of SCTP and types of ICMP are told apart, and a rule without records decides like any other",
        documents: r#"
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: db, namespace: data}
spec:
  ingress:
  - {log: false, ports: [{protocol: SCTP, port: 5000, endPort: 5001}, {port: 5432}]}
  - {name: ping, ports: [{protocol: ICMP, type: echo-request}, {protocol: ICMPv6, type: 128}]}
"#,
        probes: &[
            probe(("shop/web", "data/db"), ("SCTP", 5001), Allow, Rule, "Policy/data/db ingress[0]"),
            probe(("shop/web", "data/db"), ("SCTP", 5002), Deny, Fallback, "Policy/data/db default ingress"),
            probe(("shop/web", "data/db"), ("ICMP", 8), Allow, Rule, "Policy/data/db ingress[1] ping"),
            probe(("shop/web", "data/db"), ("ICMP", 13), Deny, Fallback, "Policy/data/db default ingress"),
            probe(("fd00::2", "data/db"), ("ICMPv6", 128), Allow, Rule, "Policy/data/db ingress[1] ping"),
            probe(("fd00::2", "data/db"), ("ICMPv6", 8), Deny, Fallback, "Policy/data/db default ingress"),
        ],
    },
];
