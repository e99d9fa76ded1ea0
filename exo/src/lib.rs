#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

pub mod address_space;
pub mod audit;
pub mod binding;
pub mod call;
pub mod destroy;
pub mod device_tree;
pub mod environment;
pub mod event;
pub mod fault;
pub mod first;
pub mod frame;
pub mod gate;
pub mod interrupt;
pub mod machine;
pub mod page_table;
pub mod pool;
pub mod remote;
pub mod slice;
pub mod vcore;
