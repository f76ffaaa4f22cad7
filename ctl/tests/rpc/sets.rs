//! Lives: ctl's tests.
//! Called by: cargo test; `world`, which serves the fake.
//! May touch: a world of its own.
//! Never: an agent; the fake answers by rote, and tells in a warning what it was sent.

use std::pin::Pin;

use tokio_stream::{Stream, iter};
use tonic::{Request, Response, Status, Streaming};
use weir_proto::v1::{
    AddressSetStatus, ChangeSetRequest, ChangeSetResponse, ListFault, ListSetsRequest, ListSetsResponse,
    LoadSetRequest, LoadSetResponse, SetEntry, ShowSetRequest, ShowSetResponse, set_service_server::SetService,
};

use crate::world::World;

/// Knows the sets `drop` and `guests`; refuses lines and entries that hold the word "bad".
#[derive(Debug)]
pub struct FakeSets;

const HOUR_NS: u64 = 3_600_000_000_000;

fn faults<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<ListFault> {
    let bad = (1..).zip(texts).filter(|(_, text)| text.contains("bad"));
    bad.map(|(line, text)| ListFault {
        line,
        value: text.to_owned(),
        problem: "not an IP address".to_owned(),
        remedy: "write an address".to_owned(),
    })
    .collect()
}

fn known(name: &str) -> Result<(), Status> {
    if name == "drop" { Ok(()) } else { Err(Status::not_found(format!("AddressSet/{name} does not exist"))) }
}

#[tonic::async_trait]
impl SetService for FakeSets {
    async fn load(&self, request: Request<Streaming<LoadSetRequest>>) -> Result<Response<LoadSetResponse>, Status> {
        let mut pieces = request.into_inner();
        let Some(first) = pieces.message().await? else { return Err(Status::invalid_argument("an empty stream")) };
        known(&first.name)?;
        let (expires, allow_empty, mut text, mut last, mut count) =
            (first.expires_in_ns, first.allow_empty, first.text, first.last, 1);
        while !last {
            let Some(piece) = pieces.message().await? else { return Err(Status::aborted("broke off")) };
            text.extend(piece.text);
            (last, count) = (piece.last, count + 1);
        }
        let text = String::from_utf8(text).unwrap();
        let told = format!("{} bytes in {count} pieces, for {expires}, empty {allow_empty}", text.len());
        let faults = faults(text.lines());
        let more_faults = faults.len() as u64;
        Ok(Response::new(match more_faults {
            0 => LoadSetResponse { entries: 3, before: 2, warnings: vec![told], ..LoadSetResponse::default() },
            _ => LoadSetResponse { faults, more_faults, ..LoadSetResponse::default() },
        }))
    }

    async fn change(&self, request: Request<ChangeSetRequest>) -> Result<Response<ChangeSetResponse>, Status> {
        let ChangeSetRequest { name, add, remove, expires_in_ns } = request.into_inner();
        known(&name)?;
        let faults = faults(add.iter().chain(&remove).map(String::as_str));
        if !faults.is_empty() {
            return Ok(Response::new(ChangeSetResponse { faults, ..ChangeSetResponse::default() }));
        }
        let warnings = if expires_in_ns == HOUR_NS { vec!["in force, but not saved".to_owned()] } else { Vec::new() };
        let (added, removed) = (add.len() as u64, remove.len() as u64);
        Ok(Response::new(ChangeSetResponse { added, removed, faults, warnings }))
    }

    async fn list(&self, _: Request<ListSetsRequest>) -> Result<Response<ListSetsResponse>, Status> {
        let set = |name: &str, action: &str, next_expiry_ns| AddressSetStatus {
            name: name.to_owned(),
            action: action.to_owned(),
            listed: 2,
            loaded: 1_000_000,
            next_expiry_ns,
            packets: 12,
            bytes: 720,
        };
        let sets = vec![set("drop", "block", 1_795_302_245_000_000_000), set("guests", "allow", 0)];
        Ok(Response::new(ListSetsResponse { sets, memory_bytes: 21 << 19 }))
    }

    type ShowStream = Pin<Box<dyn Stream<Item = Result<ShowSetResponse, Status>> + Send>>;

    async fn show(&self, request: Request<ShowSetRequest>) -> Result<Response<Self::ShowStream>, Status> {
        let ShowSetRequest { name, address } = request.into_inner();
        known(&name)?;
        let entry = |prefix: &str, expires_ns, listed| SetEntry { prefix: prefix.to_owned(), expires_ns, listed };
        let mut messages = vec![Ok(ShowSetResponse {
            entries: vec![entry("192.0.2.0/24", 0, true), entry("192.0.2.7/32", 1_795_302_245_000_000_000, false)],
        })];
        if address.is_empty() {
            messages.push(Ok(ShowSetResponse { entries: vec![entry("2001:db8::/32", 0, false)] }));
        }
        Ok(Response::new(Box::pin(iter(messages))))
    }
}

#[tokio::test]
async fn a_list_goes_over_in_pieces_and_what_became_of_it_is_said() {
    let world = World::new();
    let file = world.file("list.txt", &"192.0.2.1\n".repeat(60_000));
    let seen = world.run(&format!("set load drop {file} --expires-in 1h")).await;
    assert_eq!((seen.code, seen.out.as_str()), (Some(0), "3 entries loaded into drop, in place of 2\n"), "{seen:?}");
    let told = format!("warning: 600000 bytes in 3 pieces, for {HOUR_NS}, empty false\n");
    assert_eq!(seen.err, told, "{seen:?}");
    let seen = world.run_with_input("set load drop - --allow-empty -o json", "").await;
    assert!(seen.code == Some(0) && seen.out.contains("\"added\": 3"), "{seen:?}");
    assert!(seen.out.contains("0 bytes in 1 pieces, for 0, empty true"), "{seen:?}");
}

#[tokio::test]
async fn single_entries_are_added_and_taken_out() {
    let world = World::new();
    let rows = [
        ("set add drop 192.0.2.7", "1 entry added to drop\n", ""),
        (
            "set add drop 192.0.2.7 2001:db8::/48 --expires-in 1h",
            "2 entries added to drop\n",
            "warning: in force, but not saved\n",
        ),
        ("set remove drop 192.0.2.7 192.0.2.8", "2 entries taken out of drop\n", ""),
    ];
    for (line, out, err) in rows {
        let seen = world.run(line).await;
        assert_eq!((seen.code, seen.out.as_str(), seen.err.as_str()), (Some(0), out, err), "{line}");
    }
}

#[tokio::test]
async fn sets_and_their_entries_are_shown() {
    let world = World::new();
    let table = "NAME    ACTION  LISTED   LOADED  NEXT EXPIRY          REFUSED PACKETS  BYTES\n\
                 drop    block        2  1000000  2026-11-21 23:04:05               12    720\n\
                 guests  allow        2  1000000                                    12    720\n\
                 kernel memory: 10.5 MiB\n";
    let rows = [
        ("set list", table),
        ("set show drop", "192.0.2.0/24 (document)\n192.0.2.7/32 until 2026-11-21 23:04:05\n2001:db8::/32\n"),
        ("set show drop 192.0.2.7", "192.0.2.0/24 (document)\n192.0.2.7/32 until 2026-11-21 23:04:05\n"),
        (
            "set show drop 192.0.2.7 -o json",
            "{\"prefix\":\"192.0.2.0/24\",\"expires\":null,\"listed\":true}\n\
             {\"prefix\":\"192.0.2.7/32\",\"expires\":\"2026-11-21T23:04:05Z\",\"listed\":false}\n",
        ),
    ];
    for (line, out) in rows {
        let seen = world.run(line).await;
        assert_eq!((seen.code, seen.out.as_str(), seen.err.as_str()), (Some(0), out, ""), "{line}");
    }
    let seen = world.run("set list -o json").await;
    assert!(seen.code == Some(0) && seen.out.contains("\"memoryBytes\": 11010048"), "{seen:?}");
}

#[tokio::test]
async fn what_is_refused_is_named_and_nothing_is_said_to_have_changed() {
    let world = World::new();
    let (bad, folder) = (world.file("bad.txt", "192.0.2.1\nbad\n"), world.directory.path().display());
    let sentence = "weirctl: refused: nothing was changed\n";
    let fault = |place| format!("{place} 2: \"bad\": not an IP address; write an address\n");
    let rows = [
        (format!("set load drop {bad}"), 1, fault("line") + "and 1 more\n" + sentence),
        ("set add drop 192.0.2.1 bad".to_owned(), 1, fault("entry") + sentence),
        ("set remove drop 192.0.2.1 bad".to_owned(), 1, fault("entry") + sentence),
    ];
    for (line, code, err) in rows {
        let seen = world.run(&line).await;
        assert_eq!((seen.code, seen.out.as_str(), seen.err), (Some(code), "", err), "{line}");
    }
    let rows = [
        ("set load nobody -".to_owned(), 1, "AddressSet/nobody does not exist"),
        ("set add nobody 192.0.2.1".to_owned(), 1, "AddressSet/nobody does not exist"),
        ("set show nobody".to_owned(), 1, "AddressSet/nobody does not exist"),
        ("set load drop /no/such/file".to_owned(), 2, "/no/such/file: No such file"),
        (format!("set load drop {folder}"), 2, "Is a directory"),
        ("set load drop - --expires-in soon".to_owned(), 2, "write one such as 90s"),
        ("set add drop".to_owned(), 2, "<ENTRIES>"),
        ("set remove drop 192.0.2.1 --expires-in 1h".to_owned(), 2, "--expires-in"),
        ("set".to_owned(), 2, "Usage"),
    ];
    for (line, code, words) in rows {
        let seen = world.run(&line).await;
        assert!(seen.code == Some(code) && seen.out.is_empty() && seen.err.contains(words), "{line}: {seen:?}");
    }
    let seen = World::empty().run("set list").await;
    assert!(seen.code == Some(3) && seen.err.contains("cannot reach the agent"), "{seen:?}");
}
