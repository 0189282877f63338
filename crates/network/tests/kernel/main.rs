//! Networks with real namespaces, packets and rules of the kernel. Needs root.

mod between_hosts;
mod guests;
mod lifecycle;
mod metadata_service;
mod repair;
mod rules_in_the_kernel;
mod spoofing;
mod support;
mod way_out;
