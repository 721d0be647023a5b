//! PostgreSQL.

use crate::traces::{assert_gone, processes};
use leveret_peers::Postgres;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

#[test]
fn a_server_keeps_its_tables() {
    let Some(mut postgres) = Postgres::start() else { return };
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, postgres.port())).expect("connect");
    // Whether it would use TLS: no.
    socket.write_all(b"\x00\x00\x00\x08\x04\xd2\x16\x2f").expect("write");
    let mut answer = [0];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"N");
    drop(socket);
    assert!(postgres.psql("SHOW server_version").starts_with("15."));
    postgres.psql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)");
    postgres.kill();
    assert_eq!(postgres.id(), None);
    postgres.start_again();
    postgres.psql("INSERT INTO kept VALUES (2)");
    postgres.stop();
    postgres.start_again();
    assert_eq!(postgres.psql("SELECT n FROM kept ORDER BY n"), "1\n2");
    let directory = postgres.directory().to_owned();
    let ids = processes(&directory);
    assert!(ids.len() > 2, "a server, its helpers and a keeper: {ids:?}");
    drop(postgres);
    assert_gone(&directory, &ids);
}
