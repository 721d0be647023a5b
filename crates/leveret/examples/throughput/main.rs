//! How many small messages a second go through: `throughput WAY URL [MESSAGES] [persistent]`.
//!
//! The way is `bus` for the toolkit, `raw` for its client without the toolkit or, by `amqp://`
//! alone, `lapin`. All send the same messages, with an id, a time, a type and a content type; only
//! `bare`, which is `raw` otherwise, sends bodies alone. Each publishes with confirms, at most
//! 1,024 of them outstanding, and consumes with acknowledgements and a prefetch of 1,000, both at
//! once. The queue is emptied before.

mod door;

use std::env;
use std::error::Error;
use std::time::{Duration, Instant, UNIX_EPOCH};

use leveret::{Bus, Cx, Message, Queue, Topology};
use tokio::sync::mpsc;

use self::door::Door;

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(name = "throughput")]
struct Small {
    number: u64,
}

/// What one thread allocates another one frees here, which the allocator of glibc is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const QUEUE: &str = "throughput";
const WINDOW: u64 = 1024;
const PREFETCH: u16 = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (Some(way), Some(url)) = (arguments.first(), arguments.get(1)) else {
        return Err("throughput bus|raw|bare|lapin URL [MESSAGES] [persistent]".into());
    };
    let messages = arguments.get(2).map_or(Ok(1_000_000), |text| text.parse())?;
    let persistent = arguments.get(3).is_some_and(|word| word == "persistent");
    let (published, handled) = match way.as_str() {
        "bus" => bus(url, messages, persistent).await?,
        "raw" => raw(url, messages, persistent, describe).await?,
        "bare" => raw(url, messages, persistent, describe_little).await?,
        "lapin" => lapin(url, messages, persistent).await?,
        other => return Err(format!("there is no way called {other}").into()),
    };
    let rate = |time: Duration| (messages as f64 / time.as_secs_f64()).round();
    println!("{way}: {} published and confirmed/s, {} handled/s", rate(published), rate(handled));
    Ok(())
}

/// How long until everything was confirmed, and until everything was handled.
type Times = Result<(Duration, Duration), Box<dyn Error>>;

async fn bus(url: &str, messages: u64, persistent: bool) -> Times {
    let bus = Bus::connect(url).await?;
    let queue = format!("{QUEUE}.{persistent}");
    bus.ensure(Topology::new().queue(Queue::new(&queue))).await?;
    let (done, mut all) = mpsc::channel(1);
    let handler = move |small: Small, _: Cx| {
        let done = done.clone();
        async move {
            if small.number == messages {
                // Nobody waits if publishing failed.
                let _ = done.send(()).await;
            }
            Ok(())
        }
    };
    let start = Instant::now();
    let consumer = bus.consume(&queue, handler).sent_only().prefetch(PREFETCH);
    consumer.start().await?;
    let publisher = bus.clone();
    let publishing = tokio::spawn(async move {
        let mut last = None;
        for number in 1..=messages {
            let small = Small { number };
            let publish = publisher.send(&queue, &small);
            let publish = if persistent { publish } else { publish.transient() };
            last = Some(publish.pipelined().await?);
        }
        if let Some(ticket) = last {
            ticket.await?;
        }
        Ok::<_, leveret::PublishError>(start.elapsed())
    });
    let published = publishing.await??;
    all.recv().await;
    let handled = start.elapsed();
    bus.close().await;
    Ok((published, handled))
}

async fn raw(url: &str, messages: u64, persistent: bool, describe: Describe) -> Times {
    use leveret_client::Event;
    use leveret_client::method::{BasicConsume, BasicQos, ConfirmSelect, QueueDeclare, QueuePurge};
    use leveret_client::model::ShortString;

    let door = Door::of(url)?;
    let (publishing, consuming) = (door.connect().await?, door.connect().await?);
    let name = format!("{QUEUE}.{persistent}");
    let queue = ShortString::try_from(name.as_str())?;
    let (publisher, mut confirms) = publishing.channel().await?;
    let declare = QueueDeclare { queue: queue.clone(), durable: true, ..Default::default() };
    publisher.call(declare).await?;
    publisher.call(QueuePurge { queue: queue.clone(), ..Default::default() }).await?;
    publisher.call(ConfirmSelect::default()).await?;
    let (consumer, mut deliveries) = consuming.channel().await?;
    consumer.call(BasicQos { prefetch_count: PREFETCH, ..Default::default() }).await?;
    let start = Instant::now();
    consumer.call(BasicConsume { queue, ..Default::default() }).await?;
    let handling = tokio::spawn(async move {
        let (mut seen, mut events) = (0, Vec::new());
        while seen < messages {
            deliveries.next(&mut events).await;
            let mut last = 0;
            for event in events.drain(..) {
                if let Event::Deliver(delivery) = event {
                    serde_json::from_slice::<Small>(&delivery.body())?;
                    (seen, last) = (seen + 1, delivery.tag);
                }
            }
            if last > 0 {
                consumer.ack(last, true)?;
            }
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(start.elapsed())
    });
    let mut envelope = vec![0, u8::try_from(name.len())?];
    envelope.extend_from_slice(name.as_bytes());
    let mut properties = Vec::new();
    let (mut sent, mut confirmed, mut events) = (0, 0, Vec::new());
    while confirmed < messages {
        while sent < messages && sent - confirmed < WINDOW {
            let body = serde_json::to_vec(&Small { number: sent + 1 })?;
            properties.clear();
            describe(sent, persistent, &mut properties)?;
            sent = publisher.publish(&envelope, true, &properties, &body)?;
        }
        confirms.next(&mut events).await;
        for event in events.drain(..) {
            if let Event::Confirm { tag, .. } = event {
                confirmed = confirmed.max(tag);
            }
        }
    }
    let published = start.elapsed();
    let handled = handling.await?.map_err(|error| error.to_string())?;
    Ok((published, handled))
}

/// Writes a message's properties.
type Describe = fn(u64, bool, &mut Vec<u8>) -> Result<(), Box<dyn Error>>;

/// What the toolkit says of each message.
fn describe(number: u64, persistent: bool, out: &mut Vec<u8>) -> Result<(), Box<dyn Error>> {
    use leveret_client::model::{Properties, ShortString};

    let properties = Properties {
        content_type: Some(ShortString::from_static("application/json")),
        delivery_mode: Some(if persistent { 2 } else { 1 }),
        message_id: Some(ShortString::try_from(id(number).as_str())?),
        timestamp: Some(UNIX_EPOCH.elapsed()?.as_secs()),
        kind: Some(ShortString::from_static("throughput")),
        ..Default::default()
    };
    properties.encode(out);
    Ok(())
}

/// No more than must be said.
fn describe_little(_: u64, persistent: bool, out: &mut Vec<u8>) -> Result<(), Box<dyn Error>> {
    let delivery_mode = Some(if persistent { 2 } else { 1 });
    leveret_client::model::Properties { delivery_mode, ..Default::default() }.encode(out);
    Ok(())
}

/// As long as the toolkit's ids are.
fn id(number: u64) -> String {
    format!("{:024x}-{number:x}", 0)
}

async fn lapin(url: &str, messages: u64, persistent: bool) -> Times {
    use lapin::options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions, QueuePurgeOptions,
    };
    use lapin::types::FieldTable;
    use lapin::{BasicProperties, Connection, ConnectionProperties};
    use tokio_stream::StreamExt;

    let connect = || Connection::connect(url, ConnectionProperties::default());
    let (publishing, consuming) = (connect().await?, connect().await?);
    let queue = format!("{QUEUE}.{persistent}");
    let publisher = publishing.create_channel().await?;
    let declare = QueueDeclareOptions { durable: true, ..Default::default() };
    publisher.queue_declare(queue.as_str().into(), declare, FieldTable::default()).await?;
    publisher.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await?;
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    let channel = consuming.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let start = Instant::now();
    let consume = BasicConsumeOptions::default();
    let mut consumer = channel
        .basic_consume(queue.as_str().into(), "".into(), consume, FieldTable::default())
        .await?;
    let handling = tokio::spawn(async move {
        for seen in 1..=messages {
            let Some(delivery) = consumer.next().await else { break };
            let delivery = delivery.map_err(|error| error.to_string())?;
            serde_json::from_slice::<Small>(&delivery.data).map_err(|error| error.to_string())?;
            if seen % 64 == 0 || seen == messages {
                let all = BasicAckOptions { multiple: true };
                delivery.acker.ack(all).await.map_err(|error| error.to_string())?;
            }
        }
        Ok::<_, String>(start.elapsed())
    });
    let described = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(if persistent { 2 } else { 1 })
        .with_type("throughput".into());
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let mut confirms = std::collections::VecDeque::new();
    for number in 1..=messages {
        let body = serde_json::to_vec(&Small { number })?;
        let key = queue.as_str().into();
        let properties = described
            .clone()
            .with_message_id(id(number).into())
            .with_timestamp(UNIX_EPOCH.elapsed()?.as_secs());
        let publish = publisher.basic_publish("".into(), key, mandatory, &body, properties);
        confirms.push_back(publish.await?);
        if confirms.len() as u64 >= WINDOW
            && let Some(confirm) = confirms.pop_front()
        {
            confirm.await?;
        }
    }
    for confirm in confirms {
        confirm.await?;
    }
    let published = start.elapsed();
    Ok((published, handling.await??))
}
