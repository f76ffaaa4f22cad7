//! Lives: fuzz targets. Texts for the parser.
//! Called by: libFuzzer's programs `yaml` and `kube`, the replay, `messages`.
//! May touch: the bytes it is handed.
//! Never: asks whether a text is right; whatever is accepted must mean the same when it is written down and read again.

use weir_policy::{Fault, Resource, parse};

/// Any text.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    text_holds(text);
}

/// What stands before the rest of a document, by its first byte: so that fuzzing begins behind the kind.
const HEADS: [&str; 12] = [
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: b}\n",
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: a}\n",
    "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}\n",
    "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {name: default}\n",
    "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {name: a, namespace: b}\n",
    "apiVersion: weir.dev/v1alpha1\nkind: RateLimit\nmetadata: {name: a, namespace: b}\n",
    "apiVersion: weir.dev/v1alpha1\nkind: AddressSet\nmetadata: {name: a}\n",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: b}\n",
    "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n",
    "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: b}\n",
    "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n",
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: a\n",
];

/// The rest of a document whose kind the first byte says.
pub fn kube(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(rest) = std::str::from_utf8(rest) else { return };
    let heads = HEADS.iter().cycle().skip(usize::from(*first) % HEADS.len());
    text_holds(&heads.take(1).map(|head| format!("{head}{rest}")).collect::<String>());
}

/// What must hold of a text and what the parser made of it.
pub fn text_holds(text: &str) {
    match parse("fuzz", text) {
        Ok(resources) => resources.iter().for_each(survives),
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a fault");
            faults.iter().for_each(|fault| is_helpful(fault, text));
        }
    }
}

/// A resource that is written down and read again is the same, and is written the same.
fn survives(resource: &Resource) {
    let written = resource.to_yaml();
    let read = parse("again", &written).unwrap_or_else(|faults| panic!("{}: {faults:?}\n{written}", resource.id()));
    assert_eq!(read.as_slice(), std::slice::from_ref(resource), "\n{written}");
    assert!(read.iter().all(|again| again.to_yaml() == written), "written in two ways:\n{written}");
}

/// A fault names what is wrong, what to do, and a place that is in the text.
fn is_helpful(fault: &Fault, text: &str) {
    assert!(!fault.problem.is_empty() && !fault.remedy.is_empty(), "{fault:?}");
    assert!(!fault.to_string().contains('\n'), "more than a line: {fault:?}");
    // A text that ends too early is at fault one line after its last.
    assert!(fault.line as usize <= text.split(['\n', '\r']).count() + 1, "{fault:?} in {text:?}");
}
