//! A DNS server that a test changes: it answers questions for addresses with one list, whatever the name.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::loopback;

/// A server that stops when dropped.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    is_over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug)]
struct Says {
    /// The response code (RFC 1035 section 4.1.1).
    code: u8,
    addresses: Vec<Ipv4Addr>,
}

impl Dns {
    pub fn of(addresses: &[Ipv4Addr]) -> Dns {
        let socket = UdpSocket::bind((loopback(), 0)).unwrap();
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let address = socket.local_addr().unwrap();
        let says = Arc::new(Mutex::new(Says { code: 0, addresses: addresses.to_owned() }));
        let is_over = Arc::new(AtomicBool::new(false));
        let server = thread::spawn({
            let (says, is_over) = (Arc::clone(&says), Arc::clone(&is_over));
            move || serve(&socket, &says, &is_over)
        });
        Dns { address, says, is_over, server: Some(server) }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on the name has these addresses.
    pub fn has(&self, addresses: &[Ipv4Addr]) {
        *self.says.lock().unwrap() = Says { code: 0, addresses: addresses.to_owned() };
    }

    /// From now on it answers with this code and nothing else: 2 is SERVFAIL, 3 is NXDOMAIN.
    pub fn answers(&self, code: u8) {
        *self.says.lock().unwrap() = Says { code, addresses: Vec::new() };
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.server.take().map(JoinHandle::join);
    }
}

fn serve(socket: &UdpSocket, says: &Mutex<Says>, is_over: &AtomicBool) {
    let mut buffer = [0; 1500];
    while !is_over.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let answer = answer(&buffer[..length], &says.lock().unwrap());
        // A client that is gone asks again.
        let _gone = socket.send_to(&answer, client);
    }
}

/// An answer to one question, with everything behind the question left out.
fn answer(question: &[u8], says: &Says) -> Vec<u8> {
    let mut end = 12;
    while question[end] != 0 {
        end += 1 + usize::from(question[end]);
    }
    end += 5;
    let is_v4 = question[end - 4..end - 2] == [0, 1];
    let addresses = if is_v4 { &says.addresses[..] } else { &[] };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | says.code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    for address in addresses {
        // The name of the question, A, IN, 0 s, 4 bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// How often the server looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);
