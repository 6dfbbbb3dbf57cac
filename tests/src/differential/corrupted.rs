//! Corrupted packets: truncated, with wrong lengths, with options, with a VLAN tag, or entirely random. A program
//! may pass, refuse or translate them, but must not change packets that it does not translate.

use anyhow::{Context as _, Result, ensure};

use super::{
    fixture::{
        self, DROP, EXTERNAL_EGRESS, EXTERNAL_INGRESS, PASS, POD_EGRESS, POD_INGRESS, ProgramFixture,
        REDIRECT, network,
    },
    objects::{self, CASES, RandomObjects},
    packet::Packet,
};
use crate::lab::rng::Rng;

const PROGRAMS: [&str; 4] = [EXTERNAL_INGRESS, EXTERNAL_EGRESS, POD_INGRESS, POD_EGRESS];
/// The kernel refuses shorter packets in BPF_PROG_TEST_RUN.
const SHORTEST: usize = 15;
/// Bytes that a translation may change: two addresses, two ports and a checksum, and the same again in a quoted
/// packet.
const TRANSLATED: usize = 2 * (2 * 16 + 2 * 2 + 2 + 2);
/// Headers of the reply that a packet can be turned into.
const HEADERS: usize = 128;

/// Sends this number of packets through each program; ends with the first wrong result. The kernel refuses to run
/// programs on some that are too short.
pub fn corrupted(packets: u64, rng: &mut Rng) -> Result<()> {
    network()?.run(|| {
        let mut fixture = ProgramFixture::new(None, fixture::CONFIG)?;
        let (mut objects, mut runs) = (RandomObjects::default(), 0);
        for n in 0..packets {
            if n % CASES == 0 {
                objects = RandomObjects::random(rng);
                fixture.load_objects(objects::policy(), objects.changes())?;
            }
            let frame = frame(&objects, rng);
            for program in PROGRAMS {
                let Ok((action, out)) = fixture.run_frame(program, &frame) else { continue };
                runs += 1;
                check_output(&frame, action, &out)
                    .with_context(|| format!("seed {}, packet {n}, {program}: {frame:02x?}", rng.seed))?;
            }
        }
        ensure!(runs > packets * 3, "only {runs} runs of {packets} packets");
        Ok(())
    })
}

fn frame(objects: &RandomObjects, rng: &mut Rng) -> Vec<u8> {
    let flow = objects.flow(rng);
    let port = u16::try_from(1024 + rng.below(60_000)).expect("a port");
    let packet = Packet::first(&flow, port);
    let router =
        if flow.source.is_ipv4() { [192, 0, 2, 1].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 9].into() };
    let some = |frames: Option<Vec<Vec<u8>>>, rng: &mut Rng| {
        frames.map(|frames| frames[rng.below(frames.len() as u64) as usize].clone())
    };
    let mut frame = match rng.below(4) {
        0 => some(packet.fragments(port), rng),
        1 => packet.too_big(router, 1 + rng.below(64) as usize),
        2 => Some((0..SHORTEST as u64 + rng.below(200)).map(|_| rng.below(256) as u8).collect()),
        _ => None,
    }
    .unwrap_or_else(|| packet.bytes().to_vec());
    for _ in 0..=rng.below(3) {
        corrupt(&mut frame, rng);
    }
    frame
}

fn corrupt(frame: &mut Vec<u8>, rng: &mut Rng) {
    let length = frame.len() as u64;
    match rng.below(5) {
        // Truncation.
        0 => frame.truncate((SHORTEST as u64 + rng.below(length)).min(length) as usize),
        // A random byte in the headers, which contain lengths, versions and offsets.
        1 | 2 => {
            let at = SHORTEST as u64 + rng.below(64);
            if let Some(byte) = frame.get_mut(at as usize) {
                *byte = rng.below(256) as u8;
            }
        }
        // A VLAN tag.
        3 => {
            frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        }
        // IP options, or bytes in their place: the rest of the packet moves by four bytes.
        _ if frame.len() > 40 => {
            frame[14] = frame[14].wrapping_add(1);
            frame.splice(34..34, [1, 1, 1, 0]);
        }
        _ => {}
    }
}

fn check_output(frame: &[u8], action: i32, out: &[u8]) -> Result<()> {
    match action {
        DROP => Ok(()),
        PASS | REDIRECT if out.len() == frame.len() => {
            let changed = frame.iter().zip(out).filter(|(old, new)| old != new).count();
            let is_answer = action == REDIRECT && frame.len() <= HEADERS;
            ensure!(changed <= TRANSLATED || is_answer, "{changed} bytes changed: {out:02x?}");
            Ok(())
        }
        REDIRECT => {
            ensure!(out.len() <= frame.len() + HEADERS, "a reply of {} bytes", out.len());
            Ok(())
        }
        other => anyhow::bail!("action {other} with {} bytes", out.len()),
    }
}
