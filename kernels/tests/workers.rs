//! Sharing a job between any number of workers changes nothing.

use pocketlm_kernels::*;

#[test]
fn workers_change_nothing_and_leave_nothing_out() {
    struct Threads(usize);
    impl Workers for Threads {
        fn run(&self, job: &(dyn Fn() + Sync)) {
            std::thread::scope(|scope| {
                for _ in 0..self.0 {
                    scope.spawn(job);
                }
            });
        }
    }
    let (rows, count) = (1003, 3);
    for workers in [1, 2, 5] {
        let mut out = vec![0.0; rows * count];
        split_rows(&Threads(workers), &mut out, rows, 5..rows - 2, 16, &|range, mut part| {
            for t in 0..part.columns() {
                assert_eq!(part.column(t).len(), range.len());
                for (out, row) in part.column(t).iter_mut().zip(range.clone()) {
                    *out += (t * rows + row) as f32;
                }
            }
            assert!(part.column(count).is_empty());
            assert_eq!(part.part(1..usize::MAX).column(1).len(), range.len() - 1);
        });
        let in_range = |row| (5..rows - 2).contains(&row);
        assert!(out.iter().enumerate().all(|(i, &x)| x == if in_range(i % rows) { i as f32 } else { 0.0 }));
        let (mut a, mut b) = (vec![0.0; 70], vec![0.0; 21]);
        split_pair(&Threads(workers), &mut a, &mut b, (10, 3), 2..9, &|index, a, b| {
            a.fill(index as f32);
            b.fill(index as f32);
        });
        assert!((0..70).all(|i| a[i] == if i < 20 { 0.0 } else { (i / 10) as f32 }));
        assert!((0..21).all(|i| b[i] == if i < 6 { 0.0 } else { (i / 3) as f32 }));
    }
}
