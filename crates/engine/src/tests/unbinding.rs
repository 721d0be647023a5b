//! What is bound very often, and goes at once.

use std::time::{Duration, Instant};

use leveret_model::{Chunk, FieldValue};

use super::tools::*;
use super::world::*;
use crate::Operation;
use crate::command::{Binding, DeclareExchange};
use crate::exchange::{Exchange, Target};

fn delete_exchange(text: &str) -> Operation {
    Operation::DeleteExchange { name: name(text), if_unused: false, reply: true }
}

fn found<'a>(world: &'a World, exchange: &str) -> Option<&'a Exchange> {
    world.engine.exchanges.values().find(|each| each.name == *exchange)
}

fn outgoing(world: &World, exchange: &str) -> Option<usize> {
    found(world, exchange).map(|each| each.outgoing)
}

/// The same binding with other keys and arguments.
fn variants(binding: &Binding) -> Vec<Binding> {
    let with = |key: &str, arguments: Arguments<'_>| Binding {
        routing_key: name(key),
        arguments: table(arguments),
        ..binding.clone()
    };
    vec![
        with("k", &[]),
        with("k", &[("a", 1.into())]),
        with("k", &[("a", FieldValue::Double(f64::NAN))]),
        with("other", &[]),
        with("other", &[("a", 1.into())]),
    ]
}

#[test]
fn what_goes_takes_its_own_bindings_and_no_others() {
    for kind in ["direct", "fanout", "topic", "headers"] {
        let mut world = World::new();
        world.asks(1, exchange("e", kind));
        world.asks(1, exchange("far", "fanout"));
        world.asks(1, queue("gone"));
        world.asks(1, queue("stays"));
        for bound in [binding("gone", "e", ""), exchange_binding("far", "e", "")] {
            variants(&bound).into_iter().for_each(|each| drop(world.asks(1, each)));
            // Between those that go.
            world.asks(1, binding("stays", "e", "k"));
        }
        world.asks(1, binding("gone", "far", ""));
        assert_eq!(outgoing(&world, "e"), Some(11), "{kind}");
        let generation = world.engine.generation;
        assert_eq!(world.asks(1, delete("gone")), ["deleted 0"]);
        assert!(world.engine.generation > generation);
        assert_eq!((outgoing(&world, "e"), outgoing(&world, "far")), (Some(6), Some(0)), "{kind}");
        assert_eq!(world.asks(1, delete_exchange("far")), ["ExchangeDeleted"]);
        let only = [Target::Queue(world.engine.queues.values().next().unwrap().id)];
        for mut world in [world.restart(), world] {
            assert_eq!(outgoing(&world, "e"), Some(1), "{kind}");
            assert_eq!(found(&world, "e").unwrap().router.targets(), only, "{kind}");
            world.send("e", "k", &with_headers(&[]), "m");
            assert_eq!(world.bodies("stays"), ["m"], "{kind}");
        }
    }
}

#[test]
fn exchanges_that_lose_all_bindings_at_once_go_too() {
    for kind in ["direct", "fanout", "topic", "headers"] {
        let mut world = World::new();
        for text in ["first", "second", "third"] {
            world.asks(1, DeclareExchange { auto_delete: true, ..exchange(text, kind) });
        }
        world.asks(1, queue("q"));
        world.asks(1, queue("stays"));
        let chain = [
            exchange_binding("second", "first", ""),
            binding("q", "second", ""),
            binding("q", "third", ""),
        ];
        for bound in chain {
            variants(&bound).into_iter().for_each(|each| drop(world.asks(1, each)));
        }
        world.asks(1, binding("stays", "third", "k"));
        world.asks(1, delete("q"));
        for mut world in [world.restart(), world] {
            let left = ["first", "second", "third"].map(|text| outgoing(&world, text));
            assert_eq!(left, [None, None, Some(1)], "{kind}");
            world.asks(1, delete("stays"));
            assert_eq!(outgoing(&world, "third"), None, "{kind}");
        }
    }
}

#[test]
fn something_bound_very_often_goes_in_one_pass() {
    const BINDINGS: usize = 50_000;
    for kind in ["direct", "fanout", "topic", "headers"] {
        let mut world = World::new();
        world.asks(1, exchange("e", kind));
        world.asks(1, exchange("far", "fanout"));
        world.asks(1, queue("stays"));
        world.asks(1, queue("gone"));
        // Those that stay are in front of those that go.
        let all =
            [binding("stays", "e", ""), binding("gone", "e", ""), exchange_binding("far", "e", "")];
        for bound in all {
            let bind = |index: usize| {
                let routing_key = name(&index.to_string());
                (1, Binding { routing_key, reply: false, ..bound.clone() }.into())
            };
            world.step(1, Chunk::default(), (0..BINDINGS).map(bind).collect());
        }
        assert_eq!(outgoing(&world, "e"), Some(3 * BINDINGS));
        let start = Instant::now();
        world.asks(1, delete("gone"));
        assert_eq!(outgoing(&world, "e"), Some(2 * BINDINGS));
        world.asks(1, delete_exchange("far"));
        assert_eq!(outgoing(&world, "e"), Some(BINDINGS));
        let took = start.elapsed();
        // Each a search of its own takes many seconds.
        assert!(took < Duration::from_secs(1), "{kind}: {took:?}");
    }
}
