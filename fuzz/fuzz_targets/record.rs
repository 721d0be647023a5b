//! Records of the log: what is read means the same when written and read again.
#![no_main]

use leveret_record::{
    Record, RecordError, Records, write_bind, write_declare_exchange, write_declare_queue,
    write_delete_exchange, write_delete_queue, write_delivered, write_extent, write_pack,
    write_publish, write_settle, write_unbind,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut end = 0;
    for read in Records::new(data) {
        let (offset, record) = match read {
            Ok(found) => found,
            Err(
                RecordError::Truncated { offset }
                | RecordError::UnknownType { offset, .. }
                | RecordError::Malformed { offset, .. },
            ) => {
                assert!((end..data.len()).contains(&offset));
                break;
            }
        };
        assert!((end..data.len()).contains(&offset));
        end = offset + 1;
        let mut again = Vec::new();
        write(&mut again, &record);
        let mut records = Records::new(&again);
        assert_eq!(records.next(), Some(Ok((0, record))));
        assert_eq!(records.next(), None);
    }
});

fn write(out: &mut Vec<u8>, record: &Record<'_>) {
    match record {
        Record::Publish { message, origin, targets } => {
            write_publish(out, *message, *origin, &targets.collect::<Vec<_>>());
        }
        Record::Settle { queue, first, count } => write_settle(out, *queue, *first, *count),
        Record::DeclareExchange(exchange) => write_declare_exchange(out, exchange),
        Record::DeleteExchange { vhost, name } => write_delete_exchange(out, vhost, name),
        Record::DeclareQueue(queue) => write_declare_queue(out, queue),
        Record::DeleteQueue { id } => write_delete_queue(out, *id),
        Record::Bind(binding) => write_bind(out, binding),
        Record::Unbind(binding) => write_unbind(out, binding),
        Record::Pack(pack) => write_pack(out, pack),
        Record::Extent(extent) => write_extent(out, extent),
        Record::Delivered { queue, below } => write_delivered(out, *queue, *below),
    }
}
