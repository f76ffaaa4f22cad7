//! Lives: ctl's tests.
//! Called by: cargo test.
//! May touch: a world of its own.
//! Never: checks output without the exit code beside it.

use crate::world::World;

#[tokio::test]
async fn apply_shows_what_changed_and_the_generation() {
    let world = World::new();
    let file = world.file("a.yaml", "api");
    let seen = world.run(&format!("apply -f {file}")).await;
    assert_eq!(seen.code, Some(0), "{seen:?}");
    assert_eq!(seen.out, "created   Policy/shop/api\nunchanged AddressSet/blocked\ngeneration 8 is in force\n");
    assert_eq!(seen.err, "warning: policy api selects nothing\n");

    let seen = world.run(&format!("apply --dry-run --replace-all -f {file}")).await;
    assert_eq!(seen.code, Some(0));
    assert!(seen.out.contains("deleted   Workload/shop/old\n"), "{seen:?}");
    let cut = "would cut TCP 10.0.0.2:40000 -> 10.0.0.3:80 (shop/api, ingress) by Policy/shop/api default ingress\n\
               5 living connections would be cut, 4 of them not listed\n";
    assert!(seen.out.contains(cut), "{seen:?}");
    assert!(seen.out.ends_with("dry run: nothing was changed; generation 7 stays in force\n"), "{seen:?}");

    let seen = world.run_with_input("apply -f - -o json", "piped").await;
    assert_eq!(seen.code, Some(0), "{seen:?}");
    assert!(seen.out.contains("\"name\": \"piped\"") && seen.out.contains("\"generation\": 8"), "{seen:?}");
}

#[tokio::test]
async fn faults_are_one_per_line_and_nothing_is_changed() {
    let world = World::new();
    let (good, bad) = (world.file("good.yaml", "api"), world.file("bad.yaml", "bad"));
    let seen = world.run(&format!("apply -f {good} -f {bad}")).await;
    assert_eq!((seen.code, seen.out.as_str()), (Some(1), ""));
    let fault = |line| format!("{bad}:{line}:5: spec.mode: unknown mode (bad); write enforce or audit\n");
    let sentence = "weirctl: refused: 2 faults; nothing was changed (generation 7 stays in force)\n";
    assert_eq!(seen.err, fault(7) + &fault(9) + sentence);

    let seen = world.run(&format!("apply -o json -f {bad}")).await;
    assert_eq!(seen.code, Some(1));
    assert!(seen.out.contains("\"field\": \"spec.mode\""), "{seen:?}");
}

#[tokio::test]
async fn get_shows_resources_in_three_ways() {
    let world = World::new();
    let seen = world.run("get policies").await;
    let table = "KIND    NAMESPACE  NAME      GENERATION\nPolicy  shop       api                3\n\
                 Policy  shop       database           3\n";
    assert_eq!((seen.code, seen.out.as_str()), (Some(0), table));
    for line in ["get policy api -n shop -o yaml", "get Policy/shop/api -o yaml"] {
        let seen = world.run(line).await;
        assert!(seen.code == Some(0) && seen.out.starts_with("apiVersion: weir.dev/v1alpha1\n"), "{line}: {seen:?}");
    }
    let seen = world.run("get all -o yaml").await;
    assert_eq!(seen.out.matches("---\n").count(), 1);
    let seen = world.run("get policies -o json").await;
    assert!(seen.code == Some(0) && seen.out.contains("\"kind\": \"Policy\""), "{seen:?}");
    let seen = world.run("get workloads").await;
    assert_eq!((seen.code, seen.out.as_str(), seen.err.as_str()), (Some(0), "", "no resources\n"));
}

#[tokio::test]
async fn what_the_agent_refuses_is_exit_code_1() {
    let world = World::new();
    let document = "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {name: x}\nspec: {mode: maybe}\n";
    let invalid = world.file("invalid.yaml", document);
    for (line, message) in [
        ("get policy web -n shop", "Policy/shop/web does not exist"),
        ("delete policy api missing", "Policy/default/missing does not exist"),
        ("delete Policy/shop/missing", "Policy/shop/missing does not exist"),
        ("explain --from shop/web --to nobody --port 1", "no workload is called nobody"),
        ("observe --address nowhere", "neither an IP address nor a CIDR"),
        (&format!("delete -f {invalid}"), "spec.mode"),
    ] {
        let seen = world.run(line).await;
        assert!(seen.code == Some(1) && seen.err.contains(message) && seen.out.is_empty(), "{line}: {seen:?}");
    }
}

#[tokio::test]
async fn delete_names_what_is_gone() {
    let world = World::new();
    let document = "apiVersion: weir.dev/v1alpha1\nkind: AddressSet\nmetadata: {name: blocked}\n\
                    spec: {action: block, addresses: [192.0.2.7]}\n";
    let file = world.file("set.yaml", document);
    for (line, expected) in [
        ("delete policy shop/api", "deleted   Policy/shop/api\ngeneration 9 is in force\n"),
        ("delete Policy/shop/api", "deleted   Policy/shop/api\ngeneration 9 is in force\n"),
        (
            "delete policy/api AddressSet/blocked",
            "deleted   Policy/default/api\ndeleted   AddressSet/blocked\ngeneration 9 is in force\n",
        ),
        (
            "delete ratelimits a b -n shop",
            "deleted   RateLimit/shop/a\ndeleted   RateLimit/shop/b\ngeneration 9 is in force\n",
        ),
        (&format!("delete -f {file}"), "deleted   AddressSet/blocked\ngeneration 9 is in force\n"),
    ] {
        let seen = world.run(line).await;
        assert_eq!((seen.code, seen.out.as_str()), (Some(0), expected), "{line}: {seen:?}");
    }
}

#[tokio::test]
async fn usage_is_exit_code_2() {
    let world = World::new();
    let empty = world.directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for line in [
        "",
        "frobnicate",
        "apply",
        "apply -f /no/such/file",
        &format!("apply -f {}", empty.display()),
        "get ingresses",
        "get all api",
        "get addressset bad -n shop",
        "delete",
        "delete policy",
        "delete shop/api",
        "delete Policy/",
        "delete Policy/shop/api web",
        "delete policy Policy/shop/api",
        "delete policy shop/api -n other",
        "delete Policy/shop/api -n other",
        "delete Policy/shop/api -f a.yaml",
        "get Policy/shop/api web",
        "get Policy/shop/api -n other",
        "observe --since soon",
        "explain --from a --to b --port https",
        "--agent agent.sock status",
        "--agent https://localhost:1 status",
        "--agent http://localhost:1 status",
        "completion tcsh",
    ] {
        let seen = world.run(line).await;
        assert!(seen.code == Some(2) && seen.out.is_empty() && !seen.err.is_empty(), "{line}: {seen:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_exit_code_3() {
    let world = World::empty();
    let stale = world.directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let file = world.file("a.yaml", "api");
    for (line, message) in [
        ("status".to_owned(), "cannot reach the agent at unix:"),
        (format!("apply -f {file}"), "No such file"),
        ("get policies".to_owned(), "No such file"),
        ("watch".to_owned(), "No such file"),
        ("explain --from a --to b --port 1".to_owned(), "No such file"),
        ("observe".to_owned(), "cannot reach the collector at unix:"),
        (format!("--agent unix:{} status", stale.display()), "Connection refused"),
        ("--agent http://127.0.0.1:1 --insecure status".to_owned(), "Connection refused"),
    ] {
        let seen = world.run(&line).await;
        assert!(seen.code == Some(3) && seen.err.contains(message) && seen.out.is_empty(), "{line}: {seen:?}");
        assert_eq!(seen.err.lines().count(), 1, "{line}: {seen:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_is_not_reached() {
    let world = World::empty();
    let listener = tokio::net::UnixListener::bind(world.agent()).unwrap();
    let rude = async {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream)
        }
    };
    let seen = tokio::select! { seen = world.run("status") => seen, () = rude => panic!("the listener ended") };
    assert!(seen.code == Some(3) && seen.err.contains("allowedUids"), "{seen:?}");
}

#[tokio::test]
async fn explain_exits_by_its_verdict_and_says_why() {
    let world = World::new();
    for (port, code, word) in
        [("5432/tcp", 0, "ALLOW"), ("5432", 0, "ALLOW"), ("80", 4, "DENY"), ("53/udp", 0, "AUDIT")]
    {
        let seen = world.run(&format!("explain --from shop/web --to shop/db --port {port}")).await;
        assert_eq!(seen.code, Some(code), "{port}: {seen:?}");
        assert!(seen.out.starts_with(&format!("{word} shop/web -> shop/db ")), "{seen:?}");
        for part in ["(generation 7)", "Policy/shop/db ingress[0]", "the rule matches", "RateLimit/shop/db"] {
            assert!(seen.out.contains(part), "{part}: {seen:?}");
        }
    }
    let seen = world.run("explain --from shop/web --to shop/db --port 80 -o json").await;
    assert!(seen.code == Some(4) && seen.out.contains("\"verdict\": \"deny\""), "{seen:?}");
}

#[tokio::test]
async fn watch_shows_what_is_there_then_changes() {
    let world = World::new();
    let seen = world.run("watch").await;
    let expected = "created   Policy/shop/api (generation 3)\n-- that is all at generation 7; changes follow\n\
                    deleted   AddressSet/blocked (generation 8)\n";
    assert_eq!((seen.code, seen.out.as_str()), (Some(3), expected), "the agent ended the watch");
    assert!(seen.err.contains("it ended the watch"), "{seen:?}");
    assert_eq!(world.run("watch policy -o json").await.out.lines().count(), 3);
}

#[tokio::test]
async fn version_and_completion_need_nobody() {
    let world = World::empty();
    let seen = world.run("version").await;
    assert!(seen.code == Some(0) && seen.out.contains("cannot reach the agent"), "{seen:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let seen = world.run(&format!("completion {shell}")).await;
        assert!(seen.code == Some(0) && seen.out.contains("weirctl"), "{shell}");
    }
}
