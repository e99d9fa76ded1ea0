//! Environments, made and unmade.

use crate::meter::{Failed, Measured, Stretches};
use exo_abi::binding::Rights;
use exo_abi::{Handle, Pfn};
use libos::mem;
use libos::sys::{self, EnvFrames, Fill, Progress, VcoreStart};
use workshop::{CODE_VA, CONTROL_VA, Ground};

/// Steps of a destruction before it is given up.
const MOST_STEPS: u64 = 1_000_000;

/// A pool of four frames, an environment on it and a vcore in it; then its destruction, in as many steps as the kernel makes of
/// it, and its two slots emptied.
pub fn create_destroy(ground: &Ground) -> Measured {
    let mut frames = [Pfn(0); 4];
    mem::alloc_frames(Handle::POOL, &mut frames)?;
    sys::frame_free(Handle::POOL, &frames)?;
    let minimal = Minimal {
        frames,
        number: ground.environments.take()?,
        pool_number: ground.pools.take()?,
        env_cell: ground.take_cell()?,
        pool_cell: ground.take_cell()?,
        env: ground.take_slot()?,
        pool: ground.take_slot()?,
    };
    Stretches::ONE.measure(|_| minimal.create_and_destroy(), |_| Ok(()))
}

struct Minimal {
    frames: [Pfn; 4],
    number: u64,
    pool_number: u64,
    env_cell: u64,
    pool_cell: u64,
    env: Handle,
    pool: Handle,
}

impl Minimal {
    fn create_and_destroy(&self) -> Result<(), Failed> {
        let [environment, root, bindings, control_frame] = self.frames;
        sys::pool_create(Handle::POOL, self.pool_number, self.pool_cell, 4, 0, self.pool)?;
        sys::frame_alloc(self.pool, &self.frames, Fill::AsTheyAre)?;
        sys::env_create(self.pool, self.number, self.env_cell, EnvFrames { environment, root, bindings }, self.env)?;
        let start = VcoreStart { control_frame, control_va: CONTROL_VA, pc: CODE_VA, sp: 0, x0: 0, core: 0 };
        sys::vcore_create_other(self.env, 0, &start)?;
        let mut cursor = 0;
        for _ in 0..MOST_STEPS {
            match sys::env_destroy(self.env, cursor)? {
                Progress::Again(next) => cursor = next,
                Progress::Done => {
                    // The kernel may have emptied them.
                    for slot in [self.env, self.pool] {
                        let _ = sys::restrict(slot, Rights::empty());
                    }
                    return Ok(());
                }
            }
        }
        Err(Failed::Lacks("a destruction does not end"))
    }
}
