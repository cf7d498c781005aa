//! Test runs (`BPF_PROG_TEST_RUN`) that each begin with the same frame.
//!
//! A test run that repeats hands the program what it made of the frame before. So not the program
//! itself is run but the [`Restorer`]: it puts the headers back, and one of many clients into them,
//! and tail-calls the program. What it costs by itself shows with a program that does nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::bpf::{self, MapKind, Mode, Ran, attach_xdp, create_map, load_xdp, update};
use crate::instruction::{
    Instruction, SIZE_32, SIZE_64, XDP_ABORTED, XDP_DROP, add, add_atomic, add_register, call,
    copy, flip_register, give, load, mask, mask_register, multiply, set, set_element, set_map,
    skip_if_beyond, store,
};

/// The bytes of a frame that are put back: Ethernet, IPv6 and TCP, and what is left to a word.
const HEADERS: usize = 80;
/// From one client to the next: odd, so that all are visited, and far, so that neighbours in a
/// table are not neighbours in time.
const STRIDE: i32 = 25_717;

/// The element of the restorer's array.
#[repr(C)]
struct State {
    headers: [u8; HEADERS],
    /// Runs so far.
    runs: u64,
    /// How many clients there are, less one: bits.
    clients: u64,
    /// Offset of the four bytes in the frame that tell clients apart.
    client_at: u64,
    /// These four bytes of the first client.
    client: u64,
    /// Slot of the program to call.
    slot: u64,
}

const RUNS: i16 = std::mem::offset_of!(State, runs) as i16;
const CLIENTS: i16 = std::mem::offset_of!(State, clients) as i16;
const CLIENT_AT: i16 = std::mem::offset_of!(State, client_at) as i16;
const CLIENT: i16 = std::mem::offset_of!(State, client) as i16;
const SLOT: i16 = std::mem::offset_of!(State, slot) as i16;

/// What a batch of runs begins with.
#[derive(Clone, Debug)]
pub struct Start {
    /// The frame of the first client.
    pub frame: Vec<u8>,
    /// How many clients there are, a power of two. The four bytes of the client `n` are those of
    /// the first, the number exclusive-ored to them.
    pub clients: u32,
    /// Offset of these four bytes: below 64.
    pub client_at: usize,
}

/// The program that restores, and the programs that it can call.
pub struct Restorer {
    state: OwnedFd,
    program: OwnedFd,
    empty: OwnedFd,
    /// Slot of a program that does nothing.
    pub nothing: u32,
    runs: u64,
    _slots: OwnedFd,
    _links: [OwnedFd; 2],
}

impl Restorer {
    /// Loads it, to call the programs by their place in the list.
    ///
    /// It and the program that does nothing are attached to an interface each, in generic mode: a
    /// test run that repeats adds its program to the kernel's XDP dispatcher and removes it
    /// afterwards, and waits some 20 ms for RCU each time, unless it is there already.
    pub fn load(programs: &[RawFd], interfaces: [u32; 2]) -> io::Result<Self> {
        let empty = load_xdp(&give(XDP_DROP))?;
        let mut programs = programs.to_vec();
        programs.push(empty.as_raw_fd());
        let state = create_map(MapKind::Array, 4, size_of::<State>(), 1)?;
        let slots = create_map(MapKind::ProgramArray, 4, 4, programs.len() as u32)?;
        for (slot, program) in (0_u32..).zip(&programs) {
            let (slot, program) = (slot.to_ne_bytes(), program.to_ne_bytes());
            // SAFETY: keys and values are four bytes.
            unsafe { update(slots.as_raw_fd(), &slot, &program) }?;
        }
        let program = load_xdp(&restore(state.as_raw_fd(), slots.as_raw_fd()))?;
        let [one, other] = interfaces;
        Ok(Self {
            _links: [
                attach_xdp(&program, one, Mode::Generic)?,
                attach_xdp(&empty, other, Mode::Generic)?,
            ],
            state,
            program,
            empty,
            nothing: programs.len() as u32 - 1,
            runs: 0,
            _slots: slots,
        })
    }

    /// Runs the program that does nothing, without restoring anything: what a test run costs.
    pub fn run_nothing(&self, start: &Start, repeat: u32) -> io::Result<Ran> {
        bpf::test_run(&self.empty, start.frame.clone(), repeat)
    }

    /// Runs the program of a slot `repeat` times, each time for another client.
    pub fn run(&mut self, slot: u32, start: &Start, repeat: u32) -> io::Result<Ran> {
        let mut frame = start.frame.clone();
        // A frame may be longer than its packet.
        frame.resize(frame.len().max(HEADERS), 0);
        let client = start.client_at..start.client_at + 4;
        let state = State {
            headers: frame[..HEADERS].try_into().expect("it is as long"),
            runs: self.runs,
            clients: u64::from(start.clients - 1),
            client_at: start.client_at as u64,
            client: u32::from_ne_bytes(frame[client].try_into().expect("four bytes")).into(),
            slot: slot.into(),
        };
        self.runs += u64::from(repeat);
        // SAFETY: `State` has no padding, and the array is of such elements.
        unsafe {
            let bytes = std::slice::from_raw_parts((&raw const state).cast(), size_of::<State>());
            update(self.state.as_raw_fd(), &0_u32.to_ne_bytes(), bytes)?;
        }
        bpf::test_run(&self.program, frame, repeat)
    }
}

/// The client with a number: what of a frame or an address tells it from the first.
#[must_use]
pub fn client(first: [u8; 4], number: u32) -> [u8; 4] {
    (u32::from_ne_bytes(first) ^ number).to_ne_bytes()
}

const CONTEXT: u8 = 6;
const FRAME: u8 = 7;
const STATE: u8 = 8;
const FRAME_END: u8 = 3;
const TAIL_CALL: i32 = 12;

fn restore(state: RawFd, slots: RawFd) -> Vec<Instruction> {
    let mut body = Vec::new();
    body.extend(set_element(STATE, state));
    for word in (0..HEADERS as i16).step_by(8) {
        body.extend([
            load(SIZE_64, 5, STATE, word),
            store(SIZE_64, FRAME, word, 5),
        ]);
    }
    let mut patch = vec![store(SIZE_32, 4, 0, 5), set(5, 1)];
    // All that was stored is in memory then: loads of other sizes need not wait for it.
    patch.push(add_atomic(STATE, RUNS, 5));
    patch.push(copy(1, CONTEXT));
    patch.extend(set_map(2, slots));
    patch.extend([load(SIZE_64, 3, STATE, SLOT), call(TAIL_CALL)]);
    body.extend([
        load(SIZE_64, 5, STATE, RUNS),
        multiply(5, STRIDE),
        load(SIZE_64, 4, STATE, CLIENTS),
        mask_register(5, 4),
        load(SIZE_64, 4, STATE, CLIENT),
        flip_register(5, 4),
        load(SIZE_64, 4, STATE, CLIENT_AT),
        mask(4, 63),
        add_register(4, FRAME),
        copy(2, 4),
        add(2, 4),
        skip_if_beyond(2, FRAME_END, patch.len() as i16),
    ]);
    body.extend(patch);

    let mut all = vec![
        copy(CONTEXT, 1),
        load(SIZE_32, FRAME, 1, 0),
        load(SIZE_32, FRAME_END, 1, 4),
        copy(4, FRAME),
        add(4, HEADERS as i32),
        skip_if_beyond(4, FRAME_END, body.len() as i16),
    ];
    all.extend(body);
    all.extend(give(XDP_ABORTED));
    all
}
