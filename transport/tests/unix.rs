//! Lives: transport's tests.
//! Called by: cargo test, as root (another user's process is started to be refused).
//! May touch: a temporary directory.
//! Never: takes the check function's word for what a real connection meets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of a test fail by panicking")]

mod support;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use support::{ask, open_to_all, serve};
use weir_transport::{Endpoint, TransportError, connect, is_allowed, unix_listener};

/// The user nobody.
const STRANGER: u32 = 65534;

#[tokio::test]
async fn the_own_user_is_served_and_named_and_the_file_goes_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deeper/agent.sock");
    let served = serve(unix_listener(&path, &[]).unwrap());
    let channel = connect(&Endpoint::Unix(path.clone()), None, false).unwrap();
    let answer = ask(channel).await.unwrap();
    assert!(answer.contains(&format!("pid {}", std::process::id())), "{answer}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(served);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused_unless_listed() {
    if let Some(socket) = std::env::var_os(KNOCK_AT) {
        return knock(Path::new(&socket));
    }
    assert!(nix::unistd::geteuid().is_root(), "this test starts a process of another user and needs root");
    let directory = tempfile::tempdir().unwrap();
    open_to_all(directory.path());
    let helper = directory.path().join("helper");
    std::fs::copy(std::env::current_exe().unwrap(), &helper).unwrap();
    for (allowed, outcome) in [(vec![], "refused"), (vec![1], "refused"), (vec![STRANGER], "served")] {
        let path = directory.path().join(format!("{outcome}-{}.sock", allowed.len()));
        let _served = serve(unix_listener(&path, &allowed).unwrap());
        // Open the file to everyone, so that only the check of credentials stands in the way.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(knock_as_stranger(&helper, &path).await, outcome, "{allowed:?}");
        let own = connect(&Endpoint::Unix(path), None, false).unwrap();
        assert!(ask(own).await.is_ok(), "the listener still serves its own user");
    }
}

async fn knock_as_stranger(helper: &Path, path: &Path) -> &'static str {
    let mut command = Command::new(helper);
    command.uid(STRANGER).gid(STRANGER).current_dir("/").env(KNOCK_AT, path);
    command.args(["--exact", "another_user_is_refused_unless_listed", "--nocapture"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match (text.contains("WEIR served"), text.contains("WEIR refused")) {
        (true, false) => "served",
        (false, true) => "refused",
        _ => panic!("{output:?}"),
    }
}

/// Set, it makes the test above the stranger's process: this program again, under another user.
const KNOCK_AT: &str = "WEIR_TEST_SOCKET";

/// A server that lets us in speaks first (HTTP/2 settings); one that does not, hangs up.
fn knock(socket: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let _ = std::io::Write::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    match stream.read(&mut [0; 16]) {
        Ok(1..) => println!("WEIR served"),
        Ok(0) | Err(_) => println!("WEIR refused"),
    }
}

#[test]
fn who_may_connect_is_root_the_own_user_and_the_list() {
    for (uid, list, allowed) in [
        (0, &[][..], true),
        (nix::unistd::geteuid().as_raw(), &[], true),
        (STRANGER, &[], false),
        (STRANGER, &[1, 2], false),
        (STRANGER, &[1, STRANGER], true),
    ] {
        assert_eq!(is_allowed(uid, list), allowed, "{uid} {list:?}");
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_live_one_and_other_files_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists(), "a closed listener leaves its file");
    let _served = serve(unix_listener(&stale, &[]).unwrap());
    assert!(ask(connect(&Endpoint::Unix(stale.clone()), None, false).unwrap()).await.is_ok());

    let refused = unix_listener(&stale, &[]).unwrap_err();
    assert!(matches!(&refused, TransportError::Live { path } if *path == stale), "{refused}");
    assert!(refused.to_string().contains("another process is listening"), "{refused}");
    assert!(ask(connect(&Endpoint::Unix(stale.clone()), None, false).unwrap()).await.is_ok(), "it was left alone");

    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(unix_listener(&file, &[]).unwrap_err(), TransportError::NotASocket { .. }));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn a_channel_says_why_it_cannot_connect_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("later.sock");
    let channel = connect(&Endpoint::Unix(path.clone()), None, false).unwrap();
    let fault = ask(channel.clone()).await.unwrap_err();
    assert!(fault.contains("No such file"), "{fault}");
    let _served = serve(unix_listener(&path, &[]).unwrap());
    assert!(ask(channel).await.is_ok(), "the same channel works once the service is there");
}
