//! What QUIC shows to whoever forwards it: versions and connection ids (RFC 8999).
