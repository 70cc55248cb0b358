//! The probe that connects.

use balance::{Active, Address};
use discovery::Probe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use crate::support::{Scratch, checked, listener, until_state};

#[tokio::test]
async fn a_backend_is_up_while_it_listens() {
    let (first, address) = listener().await;
    let services = checked(Probe::Tcp, &[address.into()]);
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
    let services = checked(Probe::Tcp, &[Address::Unix(path.into())]);
    until_state(&services, Active::Up).await;
    drop(listener);
    let result = until_state(&services, Active::Down).await;
    assert!(result.text.contains("refused"), "the file is there but nobody listens: {}", result.text);
}

#[tokio::test]
async fn a_unix_backend_without_its_file_is_down() {
    let scratch = Scratch::new("no-file");
    let services = checked(Probe::Tcp, &[Address::Unix(scratch.0.join("none.sock").into())]);
    until_state(&services, Active::Down).await;
}

#[tokio::test]
async fn a_server_that_speaks_first_sees_a_polite_end() {
    let (listener, address) = listener().await;
    let services = checked(Probe::Tcp, &[address.into()]);
    for _ in 0..3 {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 welcome\r\n").await.unwrap();
        let read = stream.read(&mut [0; 16]).await;
        assert_eq!(read.expect("a check never resets a connection"), 0, "a check says nothing and ends by FIN");
    }
    until_state(&services, Active::Up).await;
}
