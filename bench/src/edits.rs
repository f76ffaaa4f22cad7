//! Lives: weir-bench. What happens in a cluster all day.
//! Called by: the measurements, tests.
//! May touch: the cluster it is handed.
//! Never: leaves the cluster in a state that its API server would refuse.
