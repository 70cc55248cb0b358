//! Endpoints from Kubernetes: an API server of this test that gives every answer one has been seen to give.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use balance::Reported;
use discovery::Event;
use discovery::sources::{Cluster, KubernetesSettings, KubernetesSource, SlicePort, TlsSettings};

use crate::http_server::{Asked, Reply, WebServer};
use crate::kube_server::{
    LIST, Script, bookmark, broken, ended, event, failure, is_watch, list, page, questions, refusal, slice, watch,
};
use crate::support::{PATIENCE, Run, Scratch, ids};

fn settings(server: &WebServer) -> KubernetesSettings {
    let cluster = Cluster::Server { url: server.url(""), tls: TlsSettings::default(), token_file: None };
    KubernetesSettings {
        namespace: Some("shop".into()),
        cluster,
        timeout: PATIENCE,
        // Longer than a machine stands still between two events that come together.
        settle: Duration::from_secs(5),
        ..KubernetesSettings::new("web")
    }
}

fn source(settings: KubernetesSettings) -> Arc<KubernetesSource> {
    Arc::new(KubernetesSource::new(settings).expect("good settings"))
}

fn run(server: &WebServer) -> Run {
    Run::again(&source(settings(server)))
}

fn web(endpoints: &[(u8, &str)]) -> serde_json::Value {
    slice("web-1", endpoints)
}

fn pods(octets: &[u8]) -> Vec<String> {
    octets.iter().map(|octet| format!("10.0.0.{octet}:8080")).collect()
}

async fn upserted(run: &mut Run) -> Vec<(String, u32, Reported)> {
    match run.event().await {
        Event::Upsert(found) => found.into_iter().map(|it| (it.id.to_string(), it.weight, it.reported)).collect(),
        other => panic!("{other:?} is no change"),
    }
}

async fn removed(run: &mut Run) -> Vec<String> {
    match run.event().await {
        Event::Remove(ids) => ids.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?} takes nobody away"),
    }
}

#[tokio::test]
async fn slices_are_listed_and_then_watched() {
    let lines = [
        bookmark(12),
        event("ADDED", 13, &slice("web-2", &[(3, "ready")])),
        event("MODIFIED", 14, &web(&[(1, "ending"), (2, "ready")])),
        event("MODIFIED", 15, &web(&[(2, "ready")])),
    ];
    let server = Script::default()
        .list(list(11, &[web(&[(1, "ready"), (2, "unready")])]))
        .watch(ended(&lines[..1]))
        .watch(ended(&lines[1..3]))
        .watch(ended(&lines[3..]))
        .watch(watch(&[]))
        .start()
        .await;
    let renew = Duration::ZERO;
    let mut run = Run::again(&source(KubernetesSettings { renew, ..settings(&server) }));
    let found = run.list().await;
    assert_eq!(ids(&found), pods(&[1, 2]));
    assert_eq!(found.iter().map(|it| it.reported).collect::<Vec<_>>(), [Reported::Ready, Reported::NotReady]);
    assert!(found.iter().all(|it| it.weight == 1 && it.zone == balance::Zone::new("eu-1a")));
    // The watch begins; a bookmark says nothing but that all is well.
    run.alive().await;
    run.alive().await;
    // The next watch. What comes together is told together, and who ends drains.
    run.alive().await;
    let drains = [("10.0.0.1:8080", 0), ("10.0.0.2:8080", 1), ("10.0.0.3:8080", 1)];
    assert_eq!(upserted(&mut run).await, drains.map(|(id, weight)| (id.into(), weight, Reported::Ready)));
    // It ended, so it leaves at once.
    run.alive().await;
    assert_eq!(removed(&mut run).await, pods(&[1]));
    run.alive().await;

    let lists = questions(&server, false);
    assert_eq!(lists.len(), 1, "watches follow each other without a list");
    assert_eq!(lists[0].line, format!("{LIST}?labelSelector=kubernetes.io%2Fservice-name%3Dweb&limit=50"));
    let watches = questions(&server, true);
    let versions: Vec<_> = watches.iter().map(|asked| asked.parameter("resourceVersion").unwrap()).collect();
    assert_eq!(versions, ["11", "12", "14", "15"]);
    assert!(watches.iter().all(|asked| asked.line.starts_with(LIST)
        && asked.parameter("labelSelector") == Some("kubernetes.io%2Fservice-name%3Dweb")
        && asked.parameter("allowWatchBookmarks") == Some("true")
        && asked.parameter("timeoutSeconds") == Some("1")));
}

#[tokio::test]
async fn who_vanishes_without_having_ended_is_left_to_the_guard() {
    let lines = [event("MODIFIED", 12, &web(&[(1, "ready")]))];
    let server =
        Script::default().list(list(11, &[web(&[(1, "ready"), (2, "ready")])])).watch(watch(&lines)).start().await;
    let settle = Duration::from_millis(50);
    let mut run = Run::again(&source(KubernetesSettings { settle, ..settings(&server) }));
    assert_eq!(run.ids().await, pods(&[1, 2]));
    assert_eq!(run.ids().await, pods(&[1]), "a list that lacks it, and no removal");
}

#[tokio::test]
async fn a_slice_that_is_deleted_is_left_to_the_guard() {
    let slices = [web(&[(1, "ready")]), slice("web-2", &[(2, "ready"), (3, "ending")])];
    let lines = [event("DELETED", 12, &slices[1])];
    let server = Script::default().list(list(11, &slices)).watch(watch(&lines)).start().await;
    let settle = Duration::from_millis(50);
    let mut run = Run::again(&source(KubernetesSettings { settle, ..settings(&server) }));
    assert_eq!(run.ids().await, pods(&[1, 2, 3]));
    run.alive().await;
    assert_eq!(removed(&mut run).await, pods(&[3]), "this one was ending");
    assert_eq!(run.ids().await, pods(&[1]));
}

#[tokio::test]
async fn an_endpoint_on_its_way_between_slices_is_not_lost() {
    // First in none, then in both, in one watch and across two.
    let server = Script::default()
        .list(list(11, &[web(&[(1, "ready"), (2, "ready")])]))
        .watch(ended(&[event("MODIFIED", 12, &web(&[(1, "ready")]))]))
        .watch(watch(&[
            event("ADDED", 13, &slice("web-2", &[(2, "ready")])),
            event("MODIFIED", 14, &web(&[(1, "ready"), (2, "ready")])),
            event("DELETED", 15, &slice("web-2", &[(2, "ready")])),
            event("ADDED", 16, &slice("web-3", &[(4, "ready")])),
        ]))
        .start()
        .await;
    let (renew, settle) = (Duration::ZERO, PATIENCE);
    let mut run = Run::again(&source(KubernetesSettings { renew, settle, ..settings(&server) }));
    assert_eq!(run.ids().await, pods(&[1, 2]));
    // A watch, a loss that is not told, another watch.
    for _ in 0..3 {
        run.alive().await;
    }
    assert_eq!(upserted(&mut run).await, [("10.0.0.4:8080".into(), 1, Reported::Ready)], "nothing else is news");
}

#[tokio::test]
async fn who_ends_serves_while_nobody_is_ready() {
    let lines = [event("MODIFIED", 12, &web(&[(1, "ending"), (2, "ended")]))];
    let server =
        Script::default().list(list(11, &[web(&[(1, "ready"), (2, "ending")])])).watch(watch(&lines)).start().await;
    let mut run = run(&server);
    let weights: Vec<_> = run.list().await.iter().map(|found| found.weight).collect();
    assert_eq!(weights, [1, 0]);
    run.alive().await;
    let expected = [("10.0.0.2:8080".into(), 1, Reported::NotReady)];
    assert_eq!(upserted(&mut run).await, expected, "the first goes on as it did");
}

#[tokio::test]
async fn a_watch_that_fell_behind_begins_with_a_list() {
    // As a status, as an event, and as an event behind others of the same moment.
    let watches = [
        refusal(410, "too old resource version: 11 (99)"),
        ended(&[failure(410, "too old resource version: 11 (99)")]),
        ended(&[event("ADDED", 12, &slice("web-2", &[(9, "ready")])), failure(410, "The resourceVersion is too old")]),
    ];
    for reply in watches {
        let server = Script::default()
            .list(list(11, &[web(&[(1, "ready")])]))
            .watch(reply)
            .list(list(99, &[web(&[(1, "ready"), (2, "ready")])]))
            .watch(ended(&[failure(410, "again")]))
            .list(list(99, &[web(&[(1, "ready"), (2, "ready")])]))
            .watch(watch(&[event("MODIFIED", 100, &web(&[(1, "ready"), (2, "ready"), (3, "ready")]))]))
            .start()
            .await;
        let mut run = run(&server);
        assert_eq!(run.ids().await, pods(&[1]));
        assert_eq!(run.ids().await, pods(&[1, 2]));
        // The list after the second time is the one that was told.
        let mut next = run.event().await;
        while next == Event::Alive {
            next = run.event().await;
        }
        let Event::Upsert(found) = next else { panic!("{next:?} is not the change") };
        assert_eq!(ids(&found), pods(&[3]));
        let versions: Vec<_> =
            questions(&server, true).iter().map(|it| it.parameter("resourceVersion").unwrap().to_owned()).collect();
        assert_eq!(versions, ["11", "99", "99"]);
        let fresh = questions(&server, false).iter().all(|asked| asked.parameter("resourceVersion").is_none());
        assert!(fresh, "no list is asked for as of a version");
    }
}

#[tokio::test]
async fn pages_that_are_asked_for_too_late_are_read_at_once() {
    let slices = [web(&[(1, "ready")]), slice("web-2", &[(2, "ready")])];
    let server = Script::default()
        .list(page(11, &slices[..1], "next=="))
        .list(refusal(410, "The provided continue parameter is too old"))
        .list(list(12, &slices))
        .start()
        .await;
    assert_eq!(run(&server).ids().await, pods(&[1, 2]));
    let lists = questions(&server, false);
    let asked: Vec<_> = lists.iter().map(|asked| (asked.parameter("limit"), asked.parameter("continue"))).collect();
    assert_eq!(asked, [(Some("50"), None), (Some("50"), Some("next%3D%3D")), (None, None)]);

    let server = Script::default().list(refusal(410, "what?")).start().await;
    assert!(run(&server).error().await.contains("nothing old was asked for"));
}

#[tokio::test]
async fn a_list_goes_on_over_pages_even_empty_ones() {
    let server = Script::default()
        .list(page(11, &[web(&[(1, "ready")])], "a"))
        .list(page(11, &[], "b"))
        .list(page(11, &[slice("web-2", &[(2, "ready")])], ""))
        .start()
        .await;
    assert_eq!(run(&server).ids().await, pods(&[1, 2]));
    // Half a list is none.
    let server =
        Script::default().list(page(11, &[web(&[(1, "ready")])], "a")).list(refusal(500, "etcd")).start().await;
    assert_eq!(run(&server).error().await, "status 500: etcd");
}

#[tokio::test]
async fn a_list_without_end_is_an_error() {
    // Pages that never end: of new slices, and of nothing.
    let mut n = 0;
    let server = WebServer::start(move |_| {
        n += 1;
        let slices: Vec<_> = (0..50).map(|k| slice(&format!("web-{n}-{k}"), &[(1, "ready"); 100])).collect();
        page(11, &slices, "more")
    })
    .await;
    assert!(run(&server).error().await.contains("more than 100000 endpoints"));
    let server = WebServer::start(|_| page(11, &[], "more")).await;
    assert!(run(&server).error().await.contains("more than 4000 pages"));
}

#[tokio::test]
async fn an_empty_list_is_told_as_it_is() {
    let server = Script::default().list(list(11, &[])).start().await;
    assert_eq!(run(&server).list().await, [], "the guard thinks its part");
}

#[tokio::test]
async fn a_list_from_the_past_is_refused_once() {
    let server = Script::default()
        .list(list(50, &[web(&[(1, "ready"), (2, "ready")])]))
        .watch(broken(&bookmark(60)))
        .list(list(40, &[web(&[(3, "ready")])]))
        .list(list(41, &[web(&[(4, "ready")])]))
        .start()
        .await;
    let source = source(settings(&server));
    let mut first = Run::again(&source);
    assert_eq!(first.ids().await, pods(&[1, 2]));
    assert!(first.error().await.contains("half an answer"));
    assert_eq!(Run::again(&source).error().await, "the list is of version 40, and 60 was known; asking again");
    assert_eq!(Run::again(&source).ids().await, pods(&[4]), "who says it again is believed");
}

#[tokio::test]
async fn a_watch_whose_version_goes_back_begins_with_a_list() {
    // A cluster that was restored: the versions of before are in its future.
    let server = Script::default()
        .list(list(5_000, &[web(&[(1, "ready")])]))
        .watch(watch(&[bookmark(70)]))
        .list(list(71, &[web(&[(2, "ready")])]))
        .list(list(71, &[web(&[(2, "ready")])]))
        .start()
        .await;
    let source = source(settings(&server));
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, pods(&[1]));
    assert!(run.error().await.contains("version 71, and 5000 was known"));
    assert_eq!(Run::again(&source).ids().await, pods(&[2]));
}

#[tokio::test]
async fn a_list_is_read_now_and_then_whatever_watches_say() {
    let mut lists = 0;
    let server = WebServer::start(move |asked| {
        if is_watch(asked) {
            return ended(&[]);
        }
        lists += 1;
        list(11, &[web(&[(lists, "ready")])])
    })
    .await;
    let (renew, resync) = (Duration::ZERO, Duration::from_millis(100));
    let mut run = Run::again(&source(KubernetesSettings { renew, resync, ..settings(&server) }));
    assert_eq!(run.ids().await, pods(&[1]));
    assert_eq!(run.ids().await, pods(&[2]));
}

#[tokio::test]
async fn what_is_no_answer_of_an_api_server_is_an_error() {
    let lists = [
        (refusal(500, "etcdserver: leader changed"), "status 500: etcdserver: leader changed"),
        (refusal(429, "too many requests, please try again later"), "status 429: too many requests"),
        (
            refusal(403, "endpointslices.discovery.k8s.io is forbidden"),
            "status 403: endpointslices.discovery.k8s.io is",
        ),
        (Reply::page("503 Service Unavailable", "", "<html>"), "status 503"),
        (Reply::page("302 Found", "location: /login\r\n", ""), "redirects are not followed"),
        (Reply::page("204 No Content", "", ""), "status 204"),
        (Reply::page("200 OK", "content-type: text/html\r\n", "<html>sign in</html>"), "not as expected"),
        (Reply::ok("{}"), "missing field"),
        (Reply::ok("null"), "expected an object"),
        (Reply::ok("{\"kind\":\"Status\",\"status\":\"Success\"}"), "missing field"),
        (Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{\"kind\":"), "half an answer"),
        (Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 33554433\r\n\r\n"), "more than 33554432 bytes"),
        (Reply::page("200 OK", "content-encoding: gzip\r\n", "x"), "compressed"),
    ];
    for (reply, expected) in lists {
        let server = Script::default().list(reply).start().await;
        let error = run(&server).error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let line = event("MODIFIED", 12, &web(&[(1, "ready")]));
    let watches = [
        (refusal(500, "no"), "status 500: no"),
        (ended(&[failure(500, "etcd event received with a gap")]), "the watch failed: status 500: etcd event"),
        (broken(&line[..line.len() / 2]), "half an answer"),
        (ended(&[line[..line.len() / 2].into()]), "broke off within a line"),
        (watch(&["nonsense\n".into()]), "not as expected"),
        (watch(&["{\"type\":\"ADDED\",\"object\":{}}\n".into()]), "an event about a ``"),
        (watch(&[event("MOVED", 12, &web(&[]))]), "unknown type `MOVED`"),
        (watch(&[" ".repeat(9 << 20)]), "a line of more than 8388608 bytes"),
    ];
    for (reply, expected) in watches {
        let server = Script::default().list(list(11, &[web(&[(1, "ready")])])).watch(reply).start().await;
        let mut run = run(&server);
        assert_eq!(run.ids().await, pods(&[1]));
        let error = run.error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn silence_is_an_error() {
    let timeout = Duration::from_secs(2);
    for has_list in [false, true] {
        let script = Script::default();
        let server = if has_list { script.list(list(11, &[])) } else { script }.start().await;
        let mut run = Run::again(&source(KubernetesSettings { timeout, ..settings(&server) }));
        if has_list {
            assert_eq!(run.list().await, []);
        }
        assert_eq!(run.error().await, "no answer in 2000 ms");
    }
}

#[tokio::test]
async fn a_link_that_died_is_noticed_when_the_watch_is_made_anew() {
    let server = Script::default().list(list(11, &[])).watch(watch(&[])).start().await;
    let (renew, timeout) = (Duration::from_millis(30), Duration::from_secs(2));
    let mut run = Run::again(&source(KubernetesSettings { renew, timeout, ..settings(&server) }));
    assert_eq!(run.list().await, []);
    assert_eq!(run.error().await, "no answer in 2000 ms");
    assert_eq!(questions(&server, true).len(), 2);
}

#[tokio::test]
async fn watches_that_end_at_once_are_not_asked_for_without_pause() {
    let server = WebServer::start(|asked| if is_watch(asked) { ended(&[]) } else { list(11, &[]) }).await;
    let mut run = run(&server);
    assert_eq!(run.list().await, []);
    let begun = std::time::Instant::now();
    for _ in 0..5 {
        run.alive().await;
    }
    assert!(begun.elapsed() >= 4 * Duration::from_millis(200), "each is followed by a pause");
    assert_eq!(questions(&server, false).len(), 1, "and none costs a list");
}

#[tokio::test]
async fn a_token_is_read_for_each_question() {
    let folder = Scratch::new("kube-token");
    let file = folder.join("token");
    fs::write(&file, "old\n").unwrap();
    let server = WebServer::start(|asked: &Asked| match (asked.header("authorization"), is_watch(asked)) {
        (Some("Bearer new"), false) => list(11, &[web(&[(1, "ready")])]),
        (Some("Bearer newest"), true) => watch(&[bookmark(12)]),
        _ => refusal(401, "Unauthorized"),
    })
    .await;
    let cluster = Cluster::Server { url: server.url(""), tls: TlsSettings::default(), token_file: Some(file.clone()) };
    let source = source(KubernetesSettings { cluster, ..settings(&server) });
    assert_eq!(Run::again(&source).error().await, "status 401: Unauthorized");
    // It was rotated, and is so again.
    fs::write(&file, "new").unwrap();
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, pods(&[1]));
    assert_eq!(run.error().await, "status 401: Unauthorized", "the watch is not for this token");
    let rotating = file.clone();
    server.change(move |asked| match is_watch(asked) {
        true => watch(&[bookmark(12)]),
        false => {
            fs::write(&rotating, "newest").unwrap();
            list(11, &[web(&[(2, "ready")])])
        }
    });
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, pods(&[2]));
    run.alive().await;
    assert_eq!(server.asked().last().unwrap().header("authorization"), Some("Bearer newest"));
    // A token that is gone is an error, and is not sent as nothing.
    fs::remove_file(&file).unwrap();
    assert!(Run::again(&source).error().await.contains("token: No such file"));
}

#[tokio::test]
async fn a_kubeconfig_leads_to_the_server() {
    let folder = Scratch::new("kube-config");
    let server = WebServer::start(|asked| match is_watch(asked) {
        false => list(11, &[web(&[(1, "ready")])]),
        true => watch(&[]),
    })
    .await;
    let path = folder.join("config");
    fs::write(folder.join("token"), "s3cret").unwrap();
    fs::write(
        &path,
        format!(
            "current-context: a\ncontexts:\n- name: a\n  context: {{cluster: c, user: u, namespace: shop}}\n\
             - name: b\n  context: {{cluster: c, user: x}}\nclusters:\n- name: c\n  cluster: {{server: '{}'}}\n\
             users:\n- name: u\n  user: {{tokenFile: token}}\n- name: x\n  user: {{exec: {{command: aws}}}}\n",
            server.url("")
        ),
    )
    .unwrap();
    let of = |context: Option<&str>| {
        let cluster = Cluster::File { path: path.clone(), context: context.map(Into::into) };
        source(KubernetesSettings { cluster, namespace: None, ..settings(&server) })
    };
    let mut run = Run::again(&of(None));
    assert_eq!(run.ids().await, pods(&[1]));
    let asked = server.asked().remove(0);
    assert!(asked.line.starts_with(LIST), "the namespace is the context's");
    assert_eq!(asked.header("authorization"), Some("Bearer s3cret"));
    assert!(Run::again(&of(Some("b"))).error().await.contains("a program to run (exec)"));
    assert!(Run::again(&of(Some("c"))).error().await.contains("no context `c`"));
}

#[tokio::test]
async fn outside_of_a_cluster_its_own_is_not_looked_for() {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return;
    }
    let error = Run::of(KubernetesSource::new(KubernetesSettings::new("web")).unwrap()).error().await;
    assert!(error.contains("this is no pod of a cluster"), "{error}");
}

#[tokio::test]
async fn ports_that_are_not_there_are_an_error() {
    let cases = [(SlicePort::Name("grpc".into()), "other ports: http=8080"), (SlicePort::Number(80), "other ports")];
    for (port, expected) in cases {
        let server = Script::default().list(list(11, &[web(&[(1, "ready")])])).start().await;
        let error = Run::again(&source(KubernetesSettings { port, ..settings(&server) })).error().await;
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_large_service_arrives_whole() {
    let slices: Vec<_> = (0..200)
        .map(|n| {
            let mut slice = slice(&format!("web-{n}"), &[(1, "ready"); 100]);
            for (k, endpoint) in slice["endpoints"].as_array_mut().unwrap().iter_mut().enumerate() {
                endpoint["addresses"][0] = format!("10.1.{n}.{k}").into();
            }
            slice
        })
        .collect();
    let mut pages = slices.chunks(50).enumerate();
    let script = Script::default();
    let script = pages
        .try_fold(script, |script, (n, slices)| Some(script.list(page(11, slices, if n < 3 { "more" } else { "" }))));
    let server = script.unwrap().start().await;
    assert_eq!(run(&server).list().await.len(), 20_000);
}
