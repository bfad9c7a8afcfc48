//! Every panel of every dashboard asks what it would ask in Grafana, of a real Prometheus and a real PostgreSQL that
//! watch a loaded shop: first at peace, then with everything going wrong that the shop can live with. A panel that is
//! to show data shows some, one that is to show zero shows zero, one that is for bad days shows them, and none is
//! refused. Exemplars are clicked on: each must lead to a trace that was really sent.
//!
//! With `PAYGAUGE_PREVIEWS=<directory>` the answers are written there, for `grafana/preview`.

mod ask;
mod dashboards;
mod trouble;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use self::ask::{Answers, Asker};
use self::dashboards::Dashboard;
use crate::support::eventually;
use crate::support::watched::Watched;

/// Long enough for two windows of every rate that a dashboard shows.
const PEACE: Duration = Duration::from_secs(75);
/// What has happened is in the answers after so many scrapes, rules and rounds of workers; a busy machine takes more
/// than one.
const TRIES: u32 = 8;
const BETWEEN_TRIES: Duration = Duration::from_secs(15);
/// How long a span may be on its way.
const EXPORTED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scene {
    Healthy,
    Drill,
}

impl Scene {
    /// At peace, a bad moment of the machine passes out of sight; a bad day is seen from its eve.
    const fn looks_back(self) -> Duration {
        match self {
            Self::Healthy => PEACE,
            Self::Drill => Duration::MAX,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager, and minutes: .ci/watch runs it"]
async fn every_panel_shows_what_it_promises() {
    let Some(shop) = Watched::open(trouble::VARIABLES).await else { return };
    let dashboards = dashboards::all();
    shop.settle(PEACE).await;
    let mut wrong = BTreeSet::new();
    let at_peace = scene(&shop, &dashboards, Scene::Healthy, &mut wrong).await;
    trouble::all(&shop).await;
    let in_trouble = scene(&shop, &dashboards, Scene::Drill, &mut wrong).await;
    let asker = Asker::begin(&shop, Scene::Drill.looks_back()).await;
    let mut queries = at_peace.queries + in_trouble.queries;
    for dashboard in &dashboards {
        queries += asker.ask_of_one(dashboard, &mut wrong).await;
    }
    let mut dots = at_peace.dots;
    dots.extend(in_trouble.dots);
    let dead = dead(&shop, &dots).await;
    println!(
        "{} dashboards, {} panels asked, {queries} queries; {} exemplars followed, {} dead",
        dashboards.len(),
        in_trouble.panels,
        dots.len(),
        dead.len()
    );
    assert!(!dots.is_empty(), "no exemplar anywhere");
    assert!(dead.is_empty(), "dead exemplars: {dead:#?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

/// What came of asking every panel.
struct Asked {
    panels: usize,
    queries: usize,
    /// The traces that exemplars lead to.
    dots: BTreeSet<String>,
}

/// Asks every panel, and again if some does not show yet what it should.
async fn scene(shop: &Watched, dashboards: &[Dashboard], scene: Scene, wrong: &mut BTreeSet<String>) -> Asked {
    let mut queries = 0;
    for attempt in 1.. {
        let asker = Asker::begin(shop, scene.looks_back()).await;
        let (mut missing, mut dots, mut panels) = (BTreeSet::new(), BTreeSet::new(), 0);
        for dashboard in dashboards {
            let answers = asker.ask(dashboard, &mut missing).await;
            judge(dashboard, &answers, scene, &mut missing);
            (panels, queries) = (panels + answers.panels(), queries + answers.queries());
            dots.extend(answers.exemplars());
            keep(scene, dashboard, &answers);
        }
        if missing.is_empty() || attempt == TRIES {
            wrong.extend(missing);
            return Asked { panels, queries, dots };
        }
        println!("attempt {attempt}: {missing:#?}");
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    unreachable!("the last attempt returns")
}

/// Traces that nobody received although a dot leads to them.
async fn dead(shop: &Watched, dots: &BTreeSet<String>) -> BTreeSet<String> {
    let began = std::time::Instant::now();
    eventually("every span arrived, or too late", EXPORTED_WITHIN * 2, async || {
        let dead = dots - &shop.traces();
        (dead.is_empty() || began.elapsed() > EXPORTED_WITHIN).then_some(dead)
    })
    .await
}

/// Holds the answers against what the dashboard's source promises.
fn judge(dashboard: &Dashboard, answers: &Answers, scene: Scene, wrong: &mut BTreeSet<String>) {
    for panel in &dashboard.panels {
        let name = format!("{} / {} ({})", dashboard.uid, panel.title, panel.id);
        let shown: Vec<_> = answers.of(panel.id).map(|(target, answer)| (target, ask::samples(answer))).collect();
        if shown.iter().flat_map(|(_, samples)| samples).any(|sample| sample.is_infinite()) {
            wrong.insert(format!("{name}: shows an infinite value"));
        }
        let is_silent = |samples: &[f64]| !samples.iter().any(|sample| sample.is_finite());
        let mut silent = shown.iter().filter(|(_, samples)| is_silent(samples)).map(|(target, _)| target.as_str());
        match (panel.class.as_str(), scene) {
            ("data", Scene::Healthy) | ("drill", Scene::Healthy) => {}
            // Of those for bad days one query has to speak: the others may be of worse days, or of last week.
            ("drill", Scene::Drill) => {
                if !shown.is_empty() && silent.count() == shown.len() {
                    wrong.insert(format!("{name}: shows nothing on a bad day"));
                }
            }
            _ => wrong.extend(silent.next().map(|target| format!("{name} {target}: shows nothing"))),
        }
        let not_zero = shown.iter().flat_map(|(_, samples)| samples).find(|sample| **sample != 0.0);
        if let (Some(value), "zero", Scene::Healthy) = (not_zero, panel.class.as_str(), scene) {
            wrong.insert(format!("{name}: is {value} at peace"));
        }
    }
}

fn keep(scene: Scene, dashboard: &Dashboard, answers: &Answers) {
    let Some(directory) = std::env::var_os("PAYGAUGE_PREVIEWS") else { return };
    let scene = match scene {
        Scene::Healthy => "healthy",
        Scene::Drill => "drill",
    };
    let directory = PathBuf::from(directory).join(scene);
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join(format!("{}.json", dashboard.uid));
    std::fs::write(file, answers.json().to_string()).expect("a file");
}
