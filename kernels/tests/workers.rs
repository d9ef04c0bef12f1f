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

        fn count(&self) -> usize {
            self.0
        }
    }
    let rows = [1003, 40, 8];
    let count = 3;
    let range = |output: usize| 5..rows[output] - output;
    for (workers, together) in [(1, 3), (2, 2), (5, 1), (2, usize::MAX)] {
        let mut values = rows.map(|rows| vec![0.0; rows * count]);
        let mut index = 0..;
        let outputs = values.each_mut().map(|values| {
            let index = index.next().unwrap();
            Output {
                values,
                rows: rows[index],
                range: range(index),
            }
        });
        split_rows(
            &Threads(workers),
            outputs,
            (16, together),
            |output, vectors, piece, mut part| {
                assert_eq!(part.vectors(), vectors.len());
                assert!(vectors.start.is_multiple_of(together) && vectors.len() <= together);
                for (index, t) in vectors.clone().enumerate() {
                    assert_eq!(part.vector(index).len(), piece.len());
                    for (out, row) in part.vector(index).iter_mut().zip(piece.clone()) {
                        *out += (t * rows[output] + row) as f32;
                    }
                }
                assert!(part.vector(vectors.len()).is_empty());
                assert_eq!(part.part(1..usize::MAX).vector(0).len(), piece.len() - 1);
            },
        );
        for (output, values) in values.iter().enumerate() {
            let expected = |i| {
                if range(output).contains(&(i % rows[output])) {
                    i as f32
                } else {
                    0.0
                }
            };
            assert!(
                values.iter().enumerate().all(|(i, &x)| x == expected(i)),
                "output {output}"
            );
        }
        let mut a = vec![0.0; 70];
        let mut b = vec![0.0; 21];
        let mut c = vec![0.0; 8];
        split_chunks(
            &Threads(workers),
            [(&mut a, 10), (&mut b, 3), (&mut c, 1)],
            2..9,
            |index, [a, b, c]| {
                a.fill(index as f32);
                b.fill(index as f32);
                c.fill(index as f32);
            },
        );
        assert!((0..70).all(|i| a[i] == if i < 20 { 0.0 } else { (i / 10) as f32 }));
        assert!((0..21).all(|i| b[i] == if i < 6 { 0.0 } else { (i / 3) as f32 }));
        // The seven chunks of `a` and `b` end the work.
        assert_eq!(c, [0.0, 0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0]);
    }
}
