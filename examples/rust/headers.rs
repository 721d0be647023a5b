//! Routing by headers: a document goes to every queue whose headers it has, all of them or any of
//! them, whatever it is called.
//!
//! `headers publish contract format=pdf signed=yes`, `headers archive`, `headers convert`

use leveret::{Cx, Exchange, Failure, Match, Result, Text};
use leveret_examples::{connect, no_part, part};

fn documents() -> Exchange {
    Exchange::headers("documents")
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (part, words) = part();
    let wanted = match (part.as_str(), &words[..]) {
        ("publish", [name, headers @ ..]) => {
            let document = Text::from(name.as_str());
            let mut publish = bus.publish(&document).exchange(documents());
            for header in headers {
                let (name, value) = header.split_once('=').unwrap_or((header, ""));
                publish = publish.header(name.to_owned(), value);
            }
            // An error if nobody ever wanted such documents.
            publish.await?;
            println!(" [x] Published {name}: {}", headers.join(", "));
            bus.close().await;
            return Ok(());
        }
        ("archive", []) => Match::all([("format", "pdf"), ("signed", "yes")]),
        ("convert", []) => Match::any([("format", "ps"), ("format.old", "doc")]),
        _ => return no_part("publish NAME HEADER=VALUE..., archive, convert"),
    };
    let service = part.clone();
    let handler = move |Text(name): Text, _: Cx| {
        println!(" [x] {service} has {name}");
        async { Ok::<_, Failure>(()) }
    };
    bus.consume(&part, handler).exchange(documents()).headers(wanted).start().await?;
    println!(" [*] {part} waits");
    bus.run_until_signal().await
}
