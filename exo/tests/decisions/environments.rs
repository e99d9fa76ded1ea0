//! Environments: how they begin, what they own, how they end.

use crate::fake::Fake;
use crate::fake::world::*;
use exo_abi::Call;

#[test]
fn the_first_environment_runs() {
    let fake = Fake::new();
    assert_eq!(fake.running(), fake.init());
    fake.must(Call::Null, &[]);
}

#[test]
fn a_child_leaves_nothing_behind() {
    let fake = Fake::new();
    let before = fake.holdings();
    let child = fake.child(3, 40);
    fake.alloc(child.pool, 10);
    fake.until(child.vcore);
    fake.until(fake.init());
    fake.destroy(child.env);
    assert_eq!(fake.holdings(), before);
}
