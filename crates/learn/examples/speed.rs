use swegym_learn::{
    model::{Dtype, Model},
    speed,
};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut m = Model::read(a[1].as_ref(), Dtype::Stored).unwrap();
    rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build_global()
        .unwrap();
    match a[2].as_str() {
        "train" => {
            let n: usize = a[3].parse().unwrap();
            let check = a.get(4).map(String::as_str) == Some("check");
            let full = a.get(4).map(String::as_str) == Some("full");
            if !full {
                m.network.add_lora(16, 32.0, 1);
            }
            let s = speed::train(&mut m.network, n, 4, check).unwrap();
            println!(
                "{s:.2?} {:.0} tok/s",
                n as f64 / s.iter().copied().fold(f64::MAX, f64::min)
            );
        }
        "prefill" => {
            for _ in 0..4 {
                let n = a[3].parse().unwrap();
                let s = speed::prefill(&m.network, n).unwrap();
                println!("{:.0} tok/s", n as f64 / s);
            }
        }
        _ => {
            for _ in 0..3 {
                let b: usize = a[3].parse().unwrap();
                let s = speed::decode(&m.network, b, 128, 32).unwrap();
                println!("{:.1} tok/s", b as f64 / s);
            }
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!(
        "{}",
        status.lines().find(|l| l.starts_with("VmHWM")).unwrap()
    );
}
