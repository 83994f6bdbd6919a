//! Ordinary HTTP/1: messages keep their borders, connections are used again, and nobody waits for what is there.

mod body;
mod compression;
mod connection;
mod head;
mod old;
