//! The PROXY header, version 2, over datagrams.
