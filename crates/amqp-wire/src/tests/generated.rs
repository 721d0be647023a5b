//! Properties of every method, generated from the same table as the methods themselves.

use super::*;
use crate::spec::methods;

/// How to make up an argument.
trait Made: Sized + std::fmt::Debug + 'static {
    fn made() -> BoxedStrategy<Self>;
}

macro_rules! made_of_anything {
    ($($type:ty)*) => {
        $(impl Made for $type {
            fn made() -> BoxedStrategy<Self> {
                any::<$type>().boxed()
            }
        })*
    };
}

made_of_anything!(bool u8 u16 u32 u64);

impl Made for ShortString {
    fn made() -> BoxedStrategy<Self> {
        let usual = vec(any::<char>(), 0..20).prop_map(String::from_iter);
        prop_oneof![4 => usual, 1 => Just("x".repeat(255))]
            .prop_map(|text| ShortString::try_from(text).unwrap())
            .boxed()
    }
}

impl Made for Vec<u8> {
    fn made() -> BoxedStrategy<Self> {
        vec(any::<u8>(), 0..40).boxed()
    }
}

impl Made for FieldTable {
    fn made() -> BoxedStrategy<Self> {
        let value = prop_oneof![
            vec(any::<u8>(), 0..20).prop_map(FieldValue::LongString),
            any::<i64>().prop_map(FieldValue::I64),
            vec((ShortString::made(), any::<bool>().prop_map(FieldValue::Bool)), 0..3)
                .prop_map(|entries| FieldValue::Table(entries.into_iter().collect())),
        ];
        vec((ShortString::made(), value), 0..4).prop_map(FieldTable::from_iter).boxed()
    }
}

macro_rules! strategies {
    ($($class:literal { $(
        $id:literal $method:ident $name:literal
        $(carries $content:ident)? $(sync $(unless $no_wait:ident)?)?
        ($($field:ident: $type:ident),*);
    )* })*) => {
        /// Every method, with made up arguments.
        fn strategies() -> Vec<BoxedStrategy<Method>> {
            vec![$($(
                // The unit stands for the arguments of methods that have none.
                (Just(()), $(<crate::spec::argument_type!($type)>::made(),)*)
                    .prop_map(|((), $($field,)*)| Method::$method($method { $($field),* }))
                    .boxed(),
            )*)*]
        }

        /// Every class and method id.
        const IDS: &[(u16, u16)] = &[$($(($class, $id),)*)*];
    };
}

methods!(strategies);

fn any_method() -> impl Strategy<Value = Method> {
    proptest::strategy::Union::new(strategies())
}

/// Counted in the specification and its extensions, not in the table.
#[test]
fn no_method_is_missing() {
    let counts = [(10, 14), (20, 6), (30, 2), (40, 8), (50, 10), (60, 18), (85, 2), (90, 6)];
    for (class, count) in counts {
        assert_eq!(IDS.iter().filter(|id| id.0 == class).count(), count, "class {class}");
    }
    let mut distinct = IDS.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), counts.iter().map(|(_, count)| count).sum::<usize>());
}

/// Each method is tried, not only those that chance would pick.
#[test]
fn every_method_comes_back_from_its_bytes() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(64));
    for strategy in strategies() {
        let check = |method: Method| {
            let bytes = payload(&method);
            prop_assert_eq!(split_id(&bytes).unwrap().0, method.id());
            prop_assert_eq!(Method::decode(&bytes), Ok(method));
            Ok(())
        };
        runner.run(&strategy, check).unwrap();
    }
}

/// A payload of a method that exists, with bytes that may be its arguments.
fn payload_like() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => 0..4_u8, 1 => any::<u8>()];
    (prop::sample::select(IDS), vec(byte, 0..60)).prop_map(|((class, method), arguments)| {
        [&class.to_be_bytes()[..], &method.to_be_bytes(), &arguments].concat()
    })
}

proptest! {
    #[test]
    fn every_truncation_and_extension_is_an_error(method in any_method(), more in any::<u8>()) {
        let mut bytes = payload(&method);
        for len in 0..bytes.len() {
            prop_assert!(Method::decode(&bytes[..len]).is_err(), "{len}");
        }
        bytes.push(more);
        let refused = matches!(
            Method::decode(&bytes),
            Err(DecodeError::Arguments { reason: ArgumentError::TrailingBytes(1), .. })
        );
        prop_assert!(refused);
    }

    #[test]
    fn a_frame_is_found_only_when_it_is_whole(method in any_method(), channel in any::<u16>()) {
        let mut bytes = Vec::new();
        method.frame(channel, &mut bytes);
        for len in 0..bytes.len() {
            prop_assert_eq!(frame::parse(&bytes[..len], 131_072), Ok(None));
        }
        let found = frames(&bytes, 131_072);
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!((found[0].kind, found[0].channel), (frame::METHOD, channel));
        prop_assert_eq!(Method::decode(found[0].payload), Ok(method));
    }

    #[test]
    fn any_payload_is_read_or_refused(bytes in payload_like()) {
        if let Ok(method) = Method::decode(&bytes) {
            // Not always the same bytes (unused bits, any true), but always the same meaning.
            prop_assert_eq!(Method::decode(&payload(&method)), Ok(method));
        }
        prop_assert_eq!(publish::is_publish(&bytes), bytes.starts_with(&[0, 60, 0, 40]));
    }

    #[test]
    fn any_bytes_are_a_frame_or_refused(bytes in vec(any::<u8>(), 0..40), size in 0..20_u32) {
        let _ = frame::parse(&bytes, 4096);
        let _ = ProtocolHeader::parse(&bytes);
        let _ = ContentHeader::parse(&bytes);
        // And with a size that may well be right.
        let bytes = [&[1, 0, 0][..], &size.to_be_bytes(), &bytes].concat();
        if let Ok(Some((frame, consumed))) = frame::parse(&bytes, 4096) {
            prop_assert_eq!(frame.payload.len(), size as usize);
            prop_assert_eq!(consumed, frame.payload.len() + frame::FRAME_OVERHEAD);
            prop_assert_eq!(bytes[consumed - 1], frame::FRAME_END);
        }
    }

    #[test]
    fn the_view_of_a_publish_agrees_with_its_method(arguments in vec(0..5_u8, 0..24)) {
        let bytes = [&[0, 60, 0, 40][..], &arguments].concat();
        match (Method::decode(&bytes), PublishView::parse(&bytes)) {
            (Ok(Method::BasicPublish(method)), Ok(view)) => {
                prop_assert_eq!(view.envelope, envelope(&method.exchange, &method.routing_key));
                prop_assert_eq!(view.exchange(), method.exchange.as_bytes());
                prop_assert_eq!(view.routing_key(), method.routing_key.as_bytes());
                prop_assert_eq!(view.mandatory, method.mandatory);
                prop_assert_eq!(view.immediate, method.immediate);
            }
            (method, view) => {
                prop_assert!(method.is_err() && view.is_err(), "{method:?} {view:?}");
            }
        }
    }

    #[test]
    fn publish_and_deliver_are_the_bytes_of_their_methods(
        names in (ShortString::made(), ShortString::made(), ShortString::made()),
        channel in any::<u16>(),
        delivery_tag in any::<u64>(),
        bit in any::<bool>(),
    ) {
        let (consumer_tag, exchange, routing_key) = names;
        let envelope = envelope(&exchange, &routing_key);
        let prefix = DeliverPrefix::new(channel, &consumer_tag);
        prop_assert_eq!(prefix.channel(), channel);
        let (mut out, mut wanted) = (Vec::new(), Vec::new());
        publish::write_deliver(&mut out, &prefix, delivery_tag, bit, &envelope);
        prop_assert_eq!(out.len(), prefix.frame_len(envelope.len()));
        publish::write_publish(&mut out, channel, &envelope, bit);
        let deliver = BasicDeliver {
            consumer_tag,
            delivery_tag,
            redelivered: bit,
            exchange: exchange.clone(),
            routing_key: routing_key.clone(),
        };
        Method::from(deliver).frame(channel, &mut wanted);
        let publish =
            BasicPublish { exchange, routing_key, mandatory: bit, ..BasicPublish::default() };
        Method::from(publish).frame(channel, &mut wanted);
        prop_assert_eq!(out, wanted);
    }

    #[test]
    fn content_comes_back_from_its_frames(
        properties in vec(any::<u8>(), 0..20),
        body in vec(any::<u8>(), 0..200),
        frame_max in 9..64_u32,
    ) {
        let mut out = Vec::new();
        write_content(&mut out, 5, &properties, &body, frame_max);
        let frames = frames(&out, 4096);
        let header = ContentHeader::parse(frames[0].payload).unwrap();
        prop_assert_eq!(header.properties, &properties[..]);
        prop_assert_eq!(header.body_size, body.len() as u64);
        let bodies = &frames[1..];
        for frame in bodies {
            prop_assert_eq!(frame.kind, frame::BODY);
            prop_assert!((1..=frame_max as usize - 8).contains(&frame.payload.len()));
        }
        let joined = bodies.iter().flat_map(|frame| frame.payload).copied().collect::<Vec<_>>();
        prop_assert_eq!(joined, body);
    }
}
