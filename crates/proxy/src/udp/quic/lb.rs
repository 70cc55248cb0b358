//! Server ids in connection ids: QUIC-LB.
//!
//! A server writes its own id and a nonce into every connection id that it chooses, in the clear or encrypted with a
//! key that it shares with us. Unlike learned ids this follows a client that moves on to a connection id that we have
//! not seen, needs no memory, and leads to the same backend through every dislocate with the same configuration.
//!
//! ```text
//! connection id:  config (3 bits)  length of the rest, or random (5 bits)
//!                 server id (1 to 15 bytes)  nonce (4 to 18)         together 5 to 19, encrypted if there is a key
//!                 what the server likes
//! ```
//!
//! Encrypted are 16 bytes as one block of AES-128, any other number by a Feistel network of four passes of AES-128 over
//! its halves. Neither is authenticated: a guessed id decodes to some server id, which is a backend or none.
//!
//! *Source*: draft-ietf-quic-load-balancers-21 (August 2025).

use std::fmt;
use std::sync::Arc;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

use super::ConnectionId;

/// One configuration: how servers write their ids.
#[derive(Clone)]
pub struct QuicLb {
    config_id: u8,
    server_id_length: u8,
    nonce_length: u8,
    key: Option<Key>,
}

/// A key, and the same expanded.
#[derive(Clone)]
struct Key {
    bytes: [u8; 16],
    cipher: Arc<Aes128>,
}

/// Why a configuration cannot be one. All are mistakes of who configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuicLb {
    /// Three bits, all of them set for ids that no configuration made.
    #[error("a config id is 0 to 6")]
    ConfigId,
    /// None, or more than fits beside a nonce.
    #[error("a server id has 1 to 15 bytes")]
    ServerIdLength,
    /// Less than makes ids unique.
    #[error("a nonce has 4 bytes at least")]
    NonceLength,
    /// Together more than a connection id of QUIC holds behind its first byte.
    #[error("server id and nonce have 19 bytes together at most")]
    TooLong,
}

impl QuicLb {
    /// A configuration with this number in the config bits, lengths in bytes, and key; without a key everybody can read
    /// which server has a connection, and link connections that move.
    ///
    /// *Errors*: what the draft does not allow.
    pub fn new(
        config_id: u8,
        server_id_length: u8,
        nonce_length: u8,
        key: Option<[u8; 16]>,
    ) -> Result<Self, InvalidQuicLb> {
        if config_id >= UNROUTABLE {
            return Err(InvalidQuicLb::ConfigId);
        }
        if !(1..=SERVER_ID_MOST).contains(&usize::from(server_id_length)) {
            return Err(InvalidQuicLb::ServerIdLength);
        }
        if nonce_length < NONCE_LEAST {
            return Err(InvalidQuicLb::NonceLength);
        }
        if usize::from(server_id_length) + usize::from(nonce_length) > BLOCK_MOST {
            return Err(InvalidQuicLb::TooLong);
        }
        let key = key.map(|bytes| Key { bytes, cipher: Arc::new(Aes128::new(&bytes.into())) });
        Ok(Self { config_id, server_id_length, nonce_length, key })
    }

    /// The number in the config bits.
    pub fn config_id(&self) -> u8 {
        self.config_id
    }

    /// Bytes of a server id.
    pub fn server_id_length(&self) -> u8 {
        self.server_id_length
    }

    /// Bytes of a nonce.
    pub fn nonce_length(&self) -> u8 {
        self.nonce_length
    }

    /// The server id in what begins with a connection id that a server chose: all that follows the first byte of a short
    /// header, or the destination id of a long one that is neither Initial nor 0-RTT, whose ids are the client's random
    /// choice. `None` for the config bits of another configuration, and for less bytes than the configuration has.
    ///
    /// *Cost*: nothing without a key, one to four blocks of AES with it.
    pub fn server_id(&self, cid: &[u8]) -> Option<ServerId> {
        let (&first, rest) = cid.split_first()?;
        if first >> CONFIG_SHIFT != self.config_id {
            return None;
        }
        let length = self.block_length();
        let mut block = [0; BLOCK_MOST];
        block[..length].copy_from_slice(rest.get(..length)?);
        self.decrypt(&mut block[..length]);
        ServerId::new(&block[..self.server_id_length.into()])
    }

    /// The connection id that a server with this id makes of this nonce, with its length in the first byte. `None` when
    /// either is not as long as configured. A nonce is used once; without a key it must look random.
    pub fn encode(&self, server_id: &[u8], nonce: &[u8]) -> Option<ConnectionId> {
        if server_id.len() != usize::from(self.server_id_length) || nonce.len() != usize::from(self.nonce_length) {
            return None;
        }
        let length = self.block_length();
        let mut cid = [0; 1 + BLOCK_MOST];
        cid[0] = self.config_id << CONFIG_SHIFT | length as u8;
        cid[1..=server_id.len()].copy_from_slice(server_id);
        cid[1 + server_id.len()..=length].copy_from_slice(nonce);
        self.encrypt(&mut cid[1..=length]);
        ConnectionId::new(&cid[..=length])
    }

    fn block_length(&self) -> usize {
        usize::from(self.server_id_length) + usize::from(self.nonce_length)
    }

    fn encrypt(&self, block: &mut [u8]) {
        let Some(Key { cipher, .. }) = &self.key else { return };
        if let Ok(block) = <&mut [u8; 16]>::try_from(&mut *block) {
            return cipher.encrypt_block(block.into());
        }
        let mut halves = Halves::split(block);
        (1..=4).for_each(|number| halves.pass(number, cipher));
        halves.join(block);
    }

    /// Leaves the server id at the start of the block; a nonce behind it may stay encrypted.
    fn decrypt(&self, block: &mut [u8]) {
        let Some(Key { cipher, .. }) = &self.key else { return };
        if let Ok(block) = <&mut [u8; 16]>::try_from(&mut *block) {
            return cipher.decrypt_block(block.into());
        }
        // The first pass is about the right half only, where a server id reaches that is longer than the nonce.
        let last = if self.server_id_length > self.nonce_length { 1 } else { 2 };
        let mut halves = Halves::split(block);
        (last..=4).rev().for_each(|number| halves.pass(number, cipher));
        halves.join(block);
    }
}

/// The halves of a block. When it has an odd number of bytes, the byte in the middle is in both: its high four bits at
/// the end of the left half, its low ones at the start of the right half, and zeros in their places.
struct Halves {
    left: [u8; HALF_MOST],
    right: [u8; HALF_MOST],
    /// Bytes of the block.
    length: usize,
}

impl Halves {
    fn split(block: &[u8]) -> Self {
        let mut halves = Self { left: [0; HALF_MOST], right: [0; HALF_MOST], length: block.len() };
        let half = halves.half();
        halves.left[..half].copy_from_slice(&block[..half]);
        halves.right[..half].copy_from_slice(&block[block.len() - half..]);
        halves.clear_shared_bits();
        halves
    }

    fn join(&self, block: &mut [u8]) {
        let half = self.half();
        block[half..].copy_from_slice(&self.right[self.length % 2..half]);
        block[..half].copy_from_slice(&self.left[..half]);
        if self.length % 2 == 1 {
            block[half - 1] |= self.right[0];
        }
    }

    /// One pass of the network, which is also its own reverse: odd ones change the right half by the left, even ones
    /// the left half by the right.
    fn pass(&mut self, number: u8, cipher: &Aes128) {
        let half = self.half();
        let (from, onto) = if number % 2 == 1 { (&self.left, &mut self.right) } else { (&self.right, &mut self.left) };
        let mut expanded = [0; 16];
        expanded[..half].copy_from_slice(&from[..half]);
        expanded[14] = self.length as u8;
        expanded[15] = number;
        cipher.encrypt_block((&mut expanded).into());
        onto[..half].iter_mut().zip(expanded).for_each(|(byte, mask)| *byte ^= mask);
        self.clear_shared_bits();
    }

    fn clear_shared_bits(&mut self) {
        if self.length % 2 == 1 {
            self.left[self.half() - 1] &= 0xf0;
            self.right[0] &= 0x0f;
        }
    }

    fn half(&self) -> usize {
        self.length.div_ceil(2)
    }
}

impl PartialEq for QuicLb {
    fn eq(&self, other: &Self) -> bool {
        let parts =
            |lb: &Self| (lb.config_id, lb.server_id_length, lb.nonce_length, lb.key.as_ref().map(|key| key.bytes));
        parts(self) == parts(other)
    }
}

impl Eq for QuicLb {}

/// Says whether there is a key, not which.
impl fmt::Debug for QuicLb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicLb")
            .field("config_id", &self.config_id)
            .field("server_id_length", &self.server_id_length)
            .field("nonce_length", &self.nonce_length)
            .field("encrypted", &self.key.is_some())
            .finish()
    }
}

/// What a server is called in connection ids: 1 to 15 bytes, held inline, without a meaning of their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId {
    /// Zeros behind the id, so that equal ids are equal in all bytes; before the length, so that ids sort by their bytes.
    bytes: [u8; SERVER_ID_MOST],
    length: u8,
}

impl ServerId {
    /// The id with these bytes; `None` unless they are 1 to 15.
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; SERVER_ID_MOST];
        bytes.get_mut(..id.len()).filter(|bytes| !bytes.is_empty())?.copy_from_slice(id);
        Some(Self { bytes, length: id.len() as u8 })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Prints hexadecimal digits.
impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The config bits of ids that no configuration made.
const UNROUTABLE: u8 = 0b111;
const CONFIG_SHIFT: u32 = 5;
const NONCE_LEAST: u8 = 4;
/// What versions 1 and 2 of QUIC leave behind the first byte of a connection id.
const BLOCK_MOST: usize = 19;
/// Beside the shortest nonce.
const SERVER_ID_MOST: usize = BLOCK_MOST - NONCE_LEAST as usize;
const HALF_MOST: usize = BLOCK_MOST.div_ceil(2);

#[cfg(test)]
#[path = "lb_tests.rs"]
mod tests;
