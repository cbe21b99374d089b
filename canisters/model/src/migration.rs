//! From one layout of stable memory to the next.

use canister_common::cbor::Extensible;
use novaq_engine::artifact::Manifest;
use shared_types::lifecycle::ModelStatus;

use crate::manifest;
use crate::repository::{IdKey, Repository};
use crate::settings::LAYOUT;

impl Repository {
    /// Brings what an older version of the code left to the layout of this one.
    ///
    /// # Panics
    /// When a newer version left a layout that this one can't read. An upgrade that traps is undone: nothing is lost.
    pub fn migrate(&mut self, now_ns: u64) {
        let layout = self.settings.layout();
        assert!(
            layout <= LAYOUT,
            "stable memory has layout {layout}, this version of the code reads up to {LAYOUT}: install a newer one"
        );
        if layout < 2 {
            self.migrate_to_2(now_ns);
        }
        self.settings.set_current_layout();
    }

    /// Layout 1 knew no versions, no cards, and not who works on what. What it called validated was not: a Pending model is to be
    /// finished again.
    fn migrate_to_2(&mut self, now_ns: u64) {
        let ids: Vec<IdKey> = self.models.keys().collect();
        for id in ids {
            let Some(mut entry) = self.models.get(&id) else { continue };
            if entry.record.card.is_none() {
                let bytes = self.bytes(entry.offset, entry.record.manifest_bytes);
                entry.record.card = Manifest::parse(&bytes).ok().map(|manifest| manifest::card(&manifest));
            }
            if entry.record.status == ModelStatus::Pending {
                self.touch(now_ns, &entry.record);
            }
            self.put_entry(Extensible::clone(&entry));
        }
        self.rebuild_versions();
        self.certify_all();
    }
}
