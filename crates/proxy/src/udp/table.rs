//! Which flow a datagram belongs to, and when flows end: pure, by addresses, lengths and the time.
