//! Lives: weir-tests, live tests of verdicts: who may talk to whom, hook by hook.
//! Called by: main.
//! May touch: the stage.
//! Never: says anything about limits, updates or the programs' own life; those have files of their own.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::world::Who::{self, Api, Client, Db, Node, Polite, Web};

use crate::rows::Fate::{Lost, Passes, Refused};
use crate::rows::How::{self, Tcp, UdpConnected, UdpUnconnected};
use crate::rows::{Fate, Proof, Row, judge};
use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("egress_is_refused_at_once_with_eperm_unless_a_rule_allows_it", egress),
        on_stage("denied_ingress_never_reaches_the_server_and_allowed_ingress_does", ingress),
        on_stage("a_deny_rule_beats_an_allow_rule_of_equal_priority_and_lower_numbers_are_judged_first", order),
        on_stage("a_default_of_allow_lets_pass_what_no_rule_denies", default_allow),
        on_stage("an_address_block_holds_for_its_addresses_but_not_for_its_exceptions", blocks),
        on_stage("world_and_host_are_peers_of_their_own", entities),
        on_stage("answers_to_a_datagram_come_back_but_nothing_else_does", replies),
        on_stage("audit_lets_pass_and_records_what_enforcement_would_deny", audit),
    ]
}

/// The tables that hold whichever hook judges ingress, as far as they are about what both see.
pub const TABLES: [(&str, Table); 7] = [
    ("egress", egress_by),
    ("ingress", ingress_by),
    ("order", order_by),
    ("default_allow", default_allow_by),
    ("blocks", blocks_by),
    ("entities", entities_by),
    ("audit", audit_by),
];

/// A table, given what runs it.
pub type Table = fn(&mut Harness, Judge) -> Result<()>;

/// What runs a table.
pub type Judge = fn(&mut Harness, &str, &[Row]) -> Result<()>;

type By = (&'static str, &'static str);

/// One row; the proof in the order of the words: verdict, hook, reason, who decided.
pub fn row(
    from: Who,
    to: Who,
    how: How,
    port: u16,
    fate: Fate,
    proof: (&'static str, &'static str, &'static str, By),
) -> Row {
    let (verdict, hook, reason, by) = proof;
    Row { from, to, how, port, fate, proof: Proof { verdict, hook, reason, by, staged: None } }
}

const NOBODY: By = ("", "");

fn egress(harness: &mut Harness) -> Result<()> {
    egress_by(harness, judge)
}

fn egress_by(harness: &mut Harness, judge: Judge) -> Result<()> {
    let policy = document(
        "Policy",
        "web-out",
        "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  defaultAction: deny
  egress:
  - name: to-api
    to: [{workloadSelector: {matchLabels: {app: api}}}]
    ports: [{protocol: TCP, port: 8080, endPort: 8090}, {protocol: UDP, port: 5353}]",
    );
    let rule = ("Policy/shop/web-out", "egress[0] to-api");
    let default = ("Policy/shop/web-out", "default egress");
    judge(
        harness,
        &policy,
        &[
            row(Web, Api, Tcp, 8080, Passes, ("allow", "sock_ops", "rule", rule)),
            row(Web, Api, Tcp, 8090, Passes, ("allow", "sock_ops", "rule", rule)),
            row(Web, Api, Tcp, 8091, Refused, ("deny", "connect", "default", default)),
            row(Web, Db, Tcp, 8080, Refused, ("deny", "connect", "default", default)),
            row(Web, Client, Tcp, 8080, Refused, ("deny", "connect", "default", default)),
            row(Web, Api, UdpConnected, 5353, Passes, ("allow", "connect", "rule", rule)),
            row(Web, Api, UdpUnconnected, 5353, Passes, ("allow", "egress", "rule", rule)),
            row(Web, Api, UdpConnected, 5354, Refused, ("deny", "connect", "default", default)),
            row(Web, Db, UdpUnconnected, 5353, Refused, ("deny", "sendmsg", "default", default)),
            row(Api, Db, Tcp, 8080, Passes, ("allow", "sock_ops", "no_policy", NOBODY)),
        ],
    )
}

fn ingress(harness: &mut Harness) -> Result<()> {
    ingress_by(harness, judge)
}

fn ingress_by(harness: &mut Harness, judge: Judge) -> Result<()> {
    let policy = document(
        "Policy",
        "api-in",
        "
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress]
  defaultAction: deny
  ingress:
  - name: from-web
    from: [{workloadSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: TCP, port: 8080, endPort: 8081}, {protocol: UDP, port: 5353}]",
    );
    let rule = ("Policy/shop/api-in", "ingress[0] from-web");
    let default = ("Policy/shop/api-in", "default ingress");
    judge(
        harness,
        &policy,
        &[
            row(Web, Api, Tcp, 8081, Passes, ("allow", "ingress", "rule", rule)),
            row(Web, Api, Tcp, 8082, Lost, ("deny", "ingress", "default", default)),
            row(Db, Api, Tcp, 8080, Lost, ("deny", "ingress", "default", default)),
            row(Client, Api, Tcp, 8080, Lost, ("deny", "ingress", "default", default)),
            row(Web, Api, UdpUnconnected, 5353, Passes, ("allow", "ingress", "rule", rule)),
            row(Client, Api, UdpConnected, 5353, Lost, ("deny", "ingress", "default", default)),
            row(Polite, Api, UdpUnconnected, 5353, Lost, ("deny", "ingress", "default", default)),
            row(Client, Web, Tcp, 8080, Passes, ("allow", "ingress", "no_policy", NOBODY)),
        ],
    )
}

fn order(harness: &mut Harness) -> Result<()> {
    order_by(harness, judge)
}

fn order_by(harness: &mut Harness, judge: Judge) -> Result<()> {
    let policy = |name, priority, rule: &str| {
        let select = "workloadSelector: {matchLabels: {app: api}}";
        document(
            "Policy",
            name,
            &format!("\n  {select}\n  priority: {priority}\n  policyTypes: [Ingress]\n  ingress: [{rule}]"),
        )
    };
    let client = [Client.v4().to_string() + "/32", format!("\"{}/128\"", Client.v6())];
    let client = format!("from: [{{ipBlock: {{cidr: {}}}}}, {{ipBlock: {{cidr: {}}}}}]", client[0], client[1]);
    let policies = [
        policy(
            "allow",
            100,
            "{name: all, action: allow, from: [{entity: world}], ports: [{port: 8080, endPort: 8089}]}",
        ),
        policy("deny", 100, &format!("{{name: client, action: deny, {client}, ports: [{{port: 8080}}]}}")),
        policy("first", 10, &format!("{{name: client, action: allow, {client}, ports: [{{port: 8085}}]}}")),
        policy("second", 20, "{name: nobody, action: deny, ports: [{port: 8085}]}"),
    ];
    judge(
        harness,
        &policies.concat(),
        &[
            row(Client, Api, Tcp, 8080, Lost, ("deny", "ingress", "rule", ("Policy/shop/deny", "ingress[0] client"))),
            row(Client, Api, Tcp, 8081, Passes, ("allow", "ingress", "rule", ("Policy/shop/allow", "ingress[0] all"))),
            row(Polite, Api, Tcp, 8080, Passes, ("allow", "ingress", "rule", ("Policy/shop/allow", "ingress[0] all"))),
            row(
                Client,
                Api,
                Tcp,
                8085,
                Passes,
                ("allow", "ingress", "rule", ("Policy/shop/first", "ingress[0] client")),
            ),
            row(Polite, Api, Tcp, 8085, Lost, ("deny", "ingress", "rule", ("Policy/shop/second", "ingress[0] nobody"))),
        ],
    )
}

fn default_allow(harness: &mut Harness) -> Result<()> {
    default_allow_by(harness, judge)
}

fn default_allow_by(harness: &mut Harness, judge: Judge) -> Result<()> {
    let policy = document(
        "Policy",
        "db-in",
        "
  workloadSelector: {matchExpressions: [{key: app, operator: In, values: [db]}]}
  policyTypes: [Ingress]
  defaultAction: allow
  ingress:
  - {action: deny, from: [{workloadSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}",
    );
    let default = ("Policy/shop/db-in", "default ingress");
    judge(
        harness,
        &policy,
        &[
            row(Web, Db, Tcp, 5432, Lost, ("deny", "ingress", "rule", ("Policy/shop/db-in", "ingress[0]"))),
            row(Web, Db, Tcp, 5433, Passes, ("allow", "ingress", "default", default)),
            row(Api, Db, Tcp, 5432, Passes, ("allow", "ingress", "default", default)),
            row(Client, Db, UdpUnconnected, 5432, Passes, ("allow", "ingress", "default", default)),
        ],
    )
}

fn blocks(harness: &mut Harness) -> Result<()> {
    blocks_by(harness, judge)
}

fn blocks_by(harness: &mut Harness, judge: Judge) -> Result<()> {
    let policy = document(
        "Policy",
        "web-out",
        "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  defaultAction: deny
  egress:
  - to:
    - ipBlock: {cidr: 10.77.0.0/24, except: [10.77.0.30/32, 10.77.0.192/26]}
    - ipBlock: {cidr: \"fd77::/48\", except: [\"fd77:0:0:1e::/64\", \"fd77:0:0:c8::/64\"]}",
    );
    let (rule, default) = (("Policy/shop/web-out", "egress[0]"), ("Policy/shop/web-out", "default egress"));
    judge(
        harness,
        &policy,
        &[
            row(Web, Api, Tcp, 80, Passes, ("allow", "sock_ops", "rule", rule)),
            row(Web, Client, UdpConnected, 53, Passes, ("allow", "connect", "rule", rule)),
            row(Web, Db, Tcp, 80, Refused, ("deny", "connect", "default", default)),
            row(Web, Polite, UdpUnconnected, 53, Refused, ("deny", "sendmsg", "default", default)),
        ],
    )
}

fn entities(harness: &mut Harness) -> Result<()> {
    entities_by(harness, judge)
}

fn entities_by(harness: &mut Harness, judge: Judge) -> Result<()> {
    let policy = document(
        "Policy",
        "api-in",
        "
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress]
  defaultAction: deny
  ingress:
  - {name: host, from: [{entity: host}], ports: [{port: 80}]}
  - {name: world, from: [{entity: world}], ports: [{port: 81}]}",
    );
    let default = ("Policy/shop/api-in", "default ingress");
    let host = ("Policy/shop/api-in", "ingress[0] host");
    let world = ("Policy/shop/api-in", "ingress[1] world");
    judge(
        harness,
        &policy,
        &[
            row(Node, Api, Tcp, 80, Passes, ("allow", "ingress", "rule", host)),
            row(Node, Api, Tcp, 81, Lost, ("deny", "ingress", "default", default)),
            row(Client, Api, Tcp, 80, Lost, ("deny", "ingress", "default", default)),
            row(Client, Api, Tcp, 81, Passes, ("allow", "ingress", "rule", world)),
            row(Web, Api, Tcp, 81, Lost, ("deny", "ingress", "default", default)),
        ],
    )
}

fn replies(harness: &mut Harness) -> Result<()> {
    answers(harness, "ingress")
}

/// A client whose ingress is closed altogether asks a server outside; `hook` is the one that judges what comes back.
pub fn answers(harness: &mut Harness, hook: &str) -> Result<()> {
    let policy = document(
        "Policy",
        "web",
        "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  egress: [{to: [{entity: world}], ports: [{protocol: UDP, port: 53}, {protocol: UDP, port: 54}]}]",
    );
    harness.apply(&format!("{}{policy}", workloads()))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let world = harness.world();
    let _true_server = world.serve(Client, "udp-serve --listen [::]:53")?;
    let _odd_server = world.serve(Client, "udp-serve --listen [::]:54 --reply-from 55")?;
    let mark = Mark::now();
    for to in [Client.v4().to_string(), format!("[{}]", Client.v6()), format!("[{}]", Client.mapped())] {
        for how in ["", "--connected"] {
            let answered = world.attempt(Web, &format!("udp-exchange --to {to}:53 {how}"))?;
            ensure!(answered.result == "ok", "{to} {how}: the answer did not come: {answered:?}");
        }
        let odd = world.attempt(Web, &format!("udp-exchange --to {to}:54 --timeout-ms 300"))?;
        ensure!(odd.result == "ETIMEDOUT", "{to}: an answer from another port came through: {odd:?}");
    }
    for (local, remote) in [(Web.v4(), Client.v4()), (Web.v6(), Client.v6())] {
        harness.record(mark, "the stray answer", |record| {
            record.is("deny", hook) && record.between(local, remote) && record.remote.port == 55
        })?;
        harness.record(mark, "the true answer", |record| {
            record.is("allow", hook) && record.reason == "reply" && record.between(local, remote)
        })?;
    }
    Ok(())
}

fn audit(harness: &mut Harness) -> Result<()> {
    audit_by(harness, judge)
}

fn audit_by(harness: &mut Harness, judge: Judge) -> Result<()> {
    let policy = |name, app, types, rest: &str| {
        let select = format!("workloadSelector: {{matchLabels: {{app: {app}}}}}");
        let spec = format!("\n  {select}\n  mode: audit\n  policyTypes: [{types}]\n  defaultAction: deny\n  {rest}");
        document("Policy", name, &spec)
    };
    let policies = [
        policy("api-in", "api", "Ingress", "ingress: [{from: [{workloadSelector: {matchLabels: {app: web}}}]}]"),
        policy("db-out", "db", "Egress", "egress: []"),
    ];
    let (ingress, egress) = (("Policy/shop/api-in", "default ingress"), ("Policy/shop/db-out", "default egress"));
    judge(
        harness,
        &policies.concat(),
        &[
            row(Client, Api, Tcp, 80, Passes, ("audit", "ingress", "default", ingress)),
            row(Web, Api, Tcp, 80, Passes, ("allow", "ingress", "no_policy", NOBODY)),
            row(Client, Api, UdpUnconnected, 53, Passes, ("audit", "ingress", "default", ingress)),
            row(Db, Client, Tcp, 80, Passes, ("audit", "sock_ops", "default", egress)),
            row(Db, Client, UdpUnconnected, 53, Passes, ("audit", "egress", "default", egress)),
        ],
    )
}
