//! Lives: fuzz targets. Bytes for the decoder of what peers send.
//! Called by: libFuzzer's program `proto`, the replay.
//! May touch: the bytes it is handed.
//! Never: decodes what only this side sends.

use prost::Message;
use weir_proto::v1;

use crate::documents::text_holds;

/// A message, of the kind that the first byte says.
pub fn proto(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    match first % 10 {
        0 => apply(rest),
        1 => same::<v1::DeleteRequest>(rest),
        2 => same::<v1::ExplainRequest>(rest),
        3 => same::<v1::GetRequest>(rest),
        4 => same::<v1::ListRequest>(rest),
        5 => same::<v1::WatchRequest>(rest),
        6 => same::<v1::Batch>(rest),
        7 => same::<v1::ObserveRequest>(rest),
        8 => same::<v1::Ack>(rest),
        _ => same::<v1::StatusResponse>(rest),
    }
}

/// What decodes means the same when it is sent on.
fn same<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let sent = message.encode_to_vec();
    assert_eq!(sent.len(), message.encoded_len());
    let again = M::decode(sent.as_slice()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again, message);
}

/// Documents by the wire are documents.
fn apply(bytes: &[u8]) {
    same::<v1::ApplyRequest>(bytes);
    let Ok(request) = v1::ApplyRequest::decode(bytes) else { return };
    let texts = || request.sources.iter().map(|source| (source.name.as_str(), source.text.as_str()));
    let alone = texts().map(|(name, text)| weir_policy::parse(name, text)).collect::<Vec<_>>();
    texts().for_each(|(_, text)| text_holds(text));
    // Together they are refused when one is, and say together what each says.
    match weir_policy::parse_all(texts()) {
        Ok(all) => assert_eq!(all, alone.into_iter().flat_map(Result::unwrap_or_default).collect::<Vec<_>>()),
        Err(faults) => {
            let faulty: usize = alone.iter().map(|one| one.as_ref().err().map_or(0, Vec::len)).sum();
            assert!(faults.len() >= faulty, "together {faults:?}");
        }
    }
}
