//! The probe that connects.

use balance::{Active, Address};
use discovery::Probe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use crate::support::{Refusing, Scratch, TCP, checked, http, last, listener, until, until_state};

#[tokio::test]
async fn a_backend_is_up_while_it_listens() {
    let (first, address) = listener().await;
    let services = checked(TCP, &[address.into()]);
    until_state(&services, Active::Up).await;
    drop(first);
    let result = until_state(&services, Active::Down).await;
    assert!(result.text.contains("refused"), "the result says what came: {}", result.text);
    let _again = TcpListener::bind(address).await.unwrap();
    assert_eq!(until_state(&services, Active::Up).await.text, "connected");
}

#[tokio::test]
async fn a_unix_backend_is_up_while_it_listens() {
    let scratch = Scratch::new("unix");
    let path = scratch.0.join("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let services = checked(TCP, &[Address::Unix(path.into())]);
    until_state(&services, Active::Up).await;
    drop(listener);
    let result = until_state(&services, Active::Down).await;
    assert!(result.text.contains("refused"), "the file is there but nobody listens: {}", result.text);
}

#[tokio::test]
async fn a_unix_backend_without_its_file_is_down() {
    let scratch = Scratch::new("no-file");
    let services = checked(TCP, &[Address::Unix(scratch.0.join("none.sock").into())]);
    until_state(&services, Active::Down).await;
}

#[tokio::test]
async fn a_server_that_speaks_first_sees_a_polite_end() {
    let (listener, address) = listener().await;
    let services = checked(TCP, &[address.into()]);
    for _ in 0..3 {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 welcome\r\n").await.unwrap();
        let read = stream.read(&mut [0; 16]).await;
        assert_eq!(read.expect("a check never resets a connection"), 0, "a check says nothing and ends by FIN");
    }
    until_state(&services, Active::Up).await;
}

#[tokio::test]
async fn another_port_of_the_backend_speaks_for_it() {
    let refusing = Refusing::new();
    let (companion, address) = listener().await;
    let probe = || Probe::Tcp { port: Some(address.port()) };
    let services = checked(probe(), &[refusing.address()]);
    until_state(&services, Active::Up).await;
    drop(companion);
    until_state(&services, Active::Down).await;
    let Probe::Http { path, host, expect, .. } = http("/", 200..=299) else { panic!("an http probe is one") };
    let services = checked(Probe::Http { port: Some(address.port()), path, host, expect }, &[refusing.address()]);
    until_state(&services, Active::Down).await;
    let companion = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = companion.accept().await {
            let mut head = [0; 1024];
            let length = stream.read(&mut head).await.unwrap_or(0);
            let named = String::from_utf8_lossy(&head[..length]).contains(&format!("host: {address}"));
            let status: &[u8] = if named { b"HTTP/1.1 200 OK\r\n\r\n" } else { b"HTTP/1.1 400 No\r\n\r\n" };
            // The check may leave before it has heard all.
            let _written = stream.write_all(status).await;
        }
    });
    until_state(&services, Active::Up).await;
}

#[tokio::test]
async fn a_unix_backend_has_no_other_port() {
    let services = checked(Probe::Tcp { port: Some(1) }, &["unix:/nowhere".parse().unwrap()]);
    until(|| last(&services).is_some_and(|last| last.text.contains("no ports"))).await;
    assert_eq!(crate::support::states(&services), [Active::Unknown], "what cannot be asked says nothing");
}
