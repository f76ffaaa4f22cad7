#!/usr/bin/env python3
"""A second opinion on the cases beside this folder, written from the API's text and from nothing else.

Reads case files and answers every question in them with a few plain rules, which share no code, no language and no author's
reading of code with the policy crate. Where the two and the expectations in the cases disagree, one of three is wrong.

    python3 oracle.py [FILE or FOLDER ...]      needs PyYAML; without arguments: ../cases
"""

import ipaddress
import json
import pathlib
import sys

import yaml

NAME = "kubernetes.io/metadata.name"


def main(paths):
    files = []
    for path in paths or [pathlib.Path(__file__).parent.parent / "cases"]:
        path = pathlib.Path(path)
        files += sorted(path.glob("**/*.json")) if path.is_dir() else [path]
    asked = wrong = 0
    for file in files:
        case = json.loads(file.read_text())
        if "cases" in case:
            continue  # Manifests to accept or refuse: a parser's business.
        for step, state in states(case):
            for probe in state["expected"]:
                asked += 1
                if answer(state, probe) != probe["allowed"]:
                    wrong += 1
                    print(f"{case['name']}{step}: {probe}: the oracle says {not probe['allowed']}")
    print(f"{len(files)} files, {asked} questions, {wrong} answered otherwise")
    return 1 if wrong or not asked else 0


def states(case):
    """The case's state, and each later one: a key given replaces the earlier value."""
    state = {key: value for key, value in case.items() if key != "then"}
    yield "", state
    for step in case.get("then", []):
        state = {**state, **step}
        yield f' after "{step.get("change", "")}"', state


def answer(state, probe):
    """Whether `from` may open to `to`."""
    world = World(state)
    family = 6 if probe.get("family") == "ipv6" else 4
    protocol, port = probe.get("protocol", "TCP"), probe.get("port", 0)
    source = world.end(probe["from"], family)
    if not probe["to"].startswith("svc:"):
        return world.allowed(source, world.end(probe["to"], family), protocol, port, False)
    # Which pod behind a Service is called is the proxy's choice: all must be open, and there must be one.
    backends = world.backends(probe["to"][4:], protocol, port, family)
    return bool(backends) and all(world.allowed(source, end, protocol, target, True) for end, target in backends)


class World:
    def __init__(self, state):
        self.state = state
        self.namespaces = {n["name"]: {**n.get("labels", {}), NAME: n["name"]} for n in state.get("namespaces", [])}
        self.nodes = {n["name"]: n for n in state.get("nodes", [])}
        # Every scalar stays the text it is: labels are strings, and numbers are read where numbers belong.
        documents = [d for text in state.get("policies", []) for d in yaml.load_all(text, yaml.BaseLoader) if d]
        items = [i for d in documents for i in (d["items"] if d["kind"].endswith("List") else [d])]
        self.policies = {"NetworkPolicy": [], "Admin": [], "Baseline": []}
        for policy in items:
            self.policies[tier(policy)].append(policy)

    def end(self, word, family):
        """Who an end is: a pod, a node, or an address of nobody's; always with the address it has in the family."""
        if word.startswith("ext:"):
            found = next(e for e in self.state.get("externals", []) if e["name"] == word[4:])
            return {"kind": "address", "ip": address(found["ips"], family)}
        if word.startswith("node:"):
            return {"kind": "node", "node": word[5:], "ip": address(self.nodes[word[5:]]["ips"], family)}
        namespace, name = word.split("/")
        found = next(p for p in self.state["pods"] if (p["namespace"], p["name"]) == (namespace, name))
        return self.pod(found, family)

    def pod(self, pod, family):
        if pod.get("host_network"):
            return {"kind": "node", "node": pod["node"], "ip": address(pod["ips"], family)}
        return {"kind": "pod", "pod": pod, "ip": address(pod.get("ips", []), family)}

    def backends(self, path, protocol, port, family):
        namespace, name = path.split("/")
        service = next(s for s in self.state["services"] if (s["namespace"], s["name"]) == (namespace, name))
        wanted = service.get("selector") or {}
        found = []
        for pod in self.state["pods"]:
            labels = pod.get("labels", {})
            if not wanted or pod["namespace"] != namespace or any(labels.get(k) != v for k, v in wanted.items()):
                continue
            for entry in service["ports"]:
                if (entry["port"], entry.get("protocol", "TCP")) != (port, protocol):
                    continue
                target = entry.get("target_port") or entry["port"]
                numbers = [target] if isinstance(target, int) else named(pod, target, protocol)
                found += [(self.pod(pod, family), number) for number in numbers]
        return found

    def allowed(self, source, target, protocol, port, by_service):
        itself = source["kind"] == target["kind"] == "pod" and source["pod"] is target["pod"]
        if itself and not by_service:
            return True
        asked = {"protocol": protocol, "port": port, "target": target, "hairpin": itself}
        if source["kind"] == "pod" and not self.direction(source, "Egress", target, asked):
            return False
        if target["kind"] != "pod":
            return True
        own_node = source["kind"] == "node" and source["node"] == target["pod"].get("node")
        return own_node or self.direction(target, "Ingress", source, asked)

    def direction(self, own, direction, other, asked):
        """Admin tier, then NetworkPolicies if any isolates, then Baseline, then allow."""
        said = self.ordered("Admin", own, direction, other, asked)
        if said in ("Accept", "Deny"):
            return said == "Accept"
        isolating = [p for p in self.policies["NetworkPolicy"] if direction in types(p) and selects_np(p, own["pod"])]
        if isolating:
            return asked["hairpin"] or any(self.opens(p, direction, other, asked) for p in isolating)
        return self.ordered("Baseline", own, direction, other, asked) != "Deny"

    def ordered(self, which, own, direction, other, asked):
        """Lower number first; among policies of one number the most cautious is heard."""
        said = []
        for policy in self.policies[which]:
            if not self.peer({**some(policy["spec"]["subject"])}, own, None):
                continue
            for rule in some(policy["spec"].get(direction.lower())):
                action = self.cluster_rule(rule, direction, other, asked)
                if action:
                    caution = ["Deny", "Pass", "Accept"].index(action)
                    said.append((int(policy["spec"].get("priority", 0)), caution, action))
                    break
        return min(said)[2] if said else None

    def cluster_rule(self, rule, direction, other, asked):
        action = {"Allow": "Accept"}.get(rule["action"], rule["action"])
        peers = some(rule.get("from" if direction == "Ingress" else "to"))
        if any(not peer or "domainNames" in peer for peer in peers):
            return None if action == "Accept" else "Deny"  # Fail closed.
        ports = some(rule.get("protocols")) or some(rule.get("ports"))
        matches = any(self.peer(peer, other, None) for peer in peers)
        return action if matches and (not ports or any(cluster_port(entry, asked) for entry in ports)) else None

    def opens(self, policy, direction, other, asked):
        for rule in some(policy["spec"].get(direction.lower())):
            rule = some(rule, {})
            peers, ports = some(rule.get("from" if direction == "Ingress" else "to")), some(rule.get("ports"))
            namespace = policy["metadata"].get("namespace", "default")
            if peers and not any(self.peer(peer, other, namespace) for peer in peers):
                continue
            if not ports or any(port_matches(entry, asked) for entry in ports):
                return True
        return False

    def peer(self, peer, end, namespace):
        """Whether an end is one of those a peer (or subject) means; `namespace` is that of a NetworkPolicy."""
        if "ipBlock" in peer:
            return within(end["ip"], peer["ipBlock"]["cidr"]) and not any(
                within(end["ip"], hole) for hole in some(peer["ipBlock"].get("except")))
        if "networks" in peer:
            return any(within(end["ip"], network) for network in peer["networks"])
        if "nodes" in peer:
            return end["kind"] == "node" and selected(peer["nodes"], self.nodes[end["node"]].get("labels", {}))
        if end["kind"] != "pod":
            return False
        labels, home = end["pod"].get("labels", {}), end["pod"]["namespace"]
        spaces = self.namespaces.get(home, {NAME: home})
        if "namespaces" in peer:
            return selected(peer["namespaces"], spaces)
        if "pods" in peer:
            inner = peer["pods"]
            return selected(inner.get("namespaceSelector"), spaces) and selected(inner.get("podSelector"), labels)
        if missing(peer.get("namespaceSelector")):
            return home == namespace and selected(peer.get("podSelector"), labels)
        return selected(peer["namespaceSelector"], spaces) and selected(peer.get("podSelector"), labels)


def tier(policy):
    return {"AdminNetworkPolicy": "Admin", "BaselineAdminNetworkPolicy": "Baseline"}.get(
        policy["kind"], policy["spec"].get("tier", "NetworkPolicy") if policy["kind"] != "NetworkPolicy" else "NetworkPolicy")


def missing(value):
    return value in (None, "", "null", "~")


def some(value, empty=()):
    return empty if missing(value) else value


def types(policy):
    given = some(policy["spec"].get("policyTypes"))
    return given or ["Ingress"] + (["Egress"] if some(policy["spec"].get("egress")) else [])


def selects_np(policy, pod):
    home = policy["metadata"].get("namespace", "default")
    return pod["namespace"] == home and selected(policy["spec"].get("podSelector"), pod.get("labels", {}))


def selected(selector, labels):
    selector = some(selector, {})
    for key, value in dict(some(selector.get("matchLabels"), {})).items():
        if labels.get(key) != value:
            return False
    for need in some(selector.get("matchExpressions")):
        has, among = need["key"] in labels, labels.get(need["key"]) in some(need.get("values"))
        if not {"In": has and among, "NotIn": not (has and among), "Exists": has, "DoesNotExist": not has}[need["operator"]]:
            return False
    return True


def address(ips, family):
    found = [ip for ip in map(ipaddress.ip_address, ips) if ip.version == family]
    return found[0] if found else None


def within(ip, network):
    network = ipaddress.ip_network(network, strict=False)
    return ip is not None and ip.version == network.version and ip in network


def named(pod, name, protocol):
    ports = [p for p in pod.get("ports", []) if p.get("name") == name and p.get("protocol", "TCP") == protocol]
    return [p["port"] for p in ports]


def is_named(name, asked, protocol):
    target = asked["target"]
    return target["kind"] == "pod" and protocol == asked["protocol"] and asked["port"] in named(target["pod"], name, protocol)


def port_matches(entry, asked):
    entry = some(entry, {})
    protocol = some(entry.get("protocol"), "TCP")
    if protocol != asked["protocol"]:
        return False
    port = some(entry.get("port"), None)
    if port is None:
        return True
    if not port.isdecimal():
        return is_named(port, asked, protocol)
    return int(port) <= asked["port"] <= int(some(entry.get("endPort"), port))


def cluster_port(entry, asked):
    if "destinationNamedPort" in entry or "namedPort" in entry:
        return is_named(entry.get("destinationNamedPort", entry.get("namedPort")), asked, asked["protocol"])
    if "portNumber" in entry or "portRange" in entry:
        inner = entry.get("portNumber", entry.get("portRange"))
        first, last = inner.get("port", inner.get("start")), inner.get("port", inner.get("end"))
        return inner.get("protocol", "TCP") == asked["protocol"] and int(first) <= asked["port"] <= int(last)
    (protocol, inner), = entry.items()
    if protocol.upper() != asked["protocol"]:
        return False
    port = inner["destinationPort"]
    first, last = (port["number"],) * 2 if "number" in port else (port["range"]["start"], port["range"]["end"])
    return int(first) <= asked["port"] <= int(last)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
