//! Receiving and sending many datagrams with few system calls.
