//! Names and nodes: hosts, backups, the directories above their roots, and the roots' entries, whose deeper roots lie inside others.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::catalogue::{Catalogue, Shown};
use super::node::{Node, Numbers, offset_of, place_of};
use crate::repository::{Backup, Entry, Lookup, Place, Repository, Result};

/// File tables that stay open.
const OPEN: usize = 4;
/// Directory offsets of entries; those below are of what is made up.
const ENTRIES: u64 = 1 << 62;
/// Directory offsets of links to newest backups are below, those of backups from here on.
const LINKS: u64 = 1 << 32;

/// A backup's open file table.
pub(super) struct Table {
    pub backup: Backup,
    lookup: Mutex<Lookup>,
}

impl Table {
    pub fn lookup(&self) -> MutexGuard<'_, Lookup> {
        self.lookup.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name in a directory. The offset is where a listing goes on behind it.
pub(super) struct Child {
    pub name: Vec<u8>,
    pub node: Node,
    pub offset: u64,
    /// The entry, for entries.
    pub entry: Option<Entry>,
}

/// Everything that has a name in the mount.
pub(super) struct Trees {
    repository: Repository,
    catalogue: Mutex<Catalogue>,
    numbers: Mutex<Numbers>,
    /// The one used last comes first.
    tables: Mutex<VecDeque<(u32, Arc<Table>)>>,
}

impl Trees {
    pub fn new(repository: Repository, catalogue: Catalogue) -> Trees {
        Trees {
            repository,
            catalogue: Mutex::new(catalogue),
            numbers: Mutex::new(Numbers::new()),
            tables: Mutex::default(),
        }
    }

    pub fn number(&self, node: &Node) -> u64 {
        lock(&self.numbers).number(node)
    }

    pub fn node(&self, number: u64) -> Option<Node> {
        lock(&self.numbers).node(number)
    }

    /// A backup's table; opening it reads all of it once.
    pub fn table(&self, backup: u32) -> Result<Arc<Table>> {
        // Held while a table is opened, so that it is not opened twice.
        let mut tables = lock(&self.tables);
        if let Some(at) = tables.iter().position(|(number, _)| *number == backup) {
            if let Some(found) = tables.remove(at) {
                tables.push_front(found);
            }
        } else {
            let key = self.shown(backup).map(|shown| shown.key).unwrap_or_default();
            let backup_itself = self.repository.open_manifest(&key)?;
            let lookup = Mutex::new(Lookup::open(&backup_itself)?);
            tables.truncate(OPEN - 1);
            let table = Table {
                backup: backup_itself,
                lookup,
            };
            tables.push_front((backup, Arc::new(table)));
        }
        Ok(Arc::clone(&tables[0].1))
    }

    pub fn shown(&self, backup: u32) -> Option<Shown> {
        lock(&self.catalogue).get(backup).cloned()
    }

    /// The name of the backup that a host's link leads to.
    pub fn latest(&self, host: &str, link: &str) -> Option<String> {
        let mut catalogue = lock(&self.catalogue);
        catalogue.refresh();
        let mut links = catalogue.latest(host).into_iter();
        links
            .find(|(name, _)| name == link)
            .map(|(_, shown)| shown.name.clone())
    }

    /// An entry's original path without the leading slash.
    pub fn original(&self, backup: u32, entry: &Entry) -> Vec<u8> {
        let shown = self.shown(backup);
        let root = shown.and_then(|shown| shown.roots.get(entry.root as usize).cloned());
        join(&root.unwrap_or_default(), &entry.path)
    }

    /// The node with this name in a directory; with its entry where it is one.
    pub fn find(&self, parent: &Node, name: &[u8]) -> Result<Option<(Node, Option<Entry>)>> {
        let text = std::str::from_utf8(name).ok();
        match parent {
            Node::Top => {
                let mut catalogue = lock(&self.catalogue);
                catalogue.refresh();
                let host = text.filter(|text| catalogue.hosts().contains(text));
                Ok(host.map(|host| (Node::Host(host.to_owned()), None)))
            }
            Node::Host(host) => {
                let mut catalogue = lock(&self.catalogue);
                catalogue.refresh();
                let links = catalogue.latest(host);
                if let Some((link, _)) = links.into_iter().find(|(link, _)| Some(link.as_str()) == text) {
                    return Ok(Some((Node::Latest(host.clone(), link), None)));
                }
                let mut fitting = catalogue
                    .there()
                    .filter(|(_, shown)| shown.host == *host && Some(shown.name.as_str()) == text);
                Ok(fitting
                    .next()
                    .map(|(number, _)| (Node::Above(number, Vec::new()), None)))
            }
            Node::Latest(..) => Ok(None),
            Node::Above(backup, path) => self.at(*backup, &join(path, name)),
            Node::Entry(backup, place) => match self.entry(*backup, *place)? {
                Some(entry) => self.at(*backup, &join(&self.original(*backup, &entry), name)),
                None => Ok(None),
            },
        }
    }

    pub fn entry(&self, backup: u32, place: Place) -> Result<Option<Entry>> {
        self.table(backup)?.lookup().get(place)
    }

    /// What is at an original path: an entry of the deepest root that holds it, or a directory above roots.
    fn at(&self, backup: u32, path: &[u8]) -> Result<Option<(Node, Option<Entry>)>> {
        let Some(shown) = self.shown(backup) else {
            return Ok(None);
        };
        if let Some((root, rest)) = deepest(&shown.roots, path) {
            let table = self.table(backup)?;
            let mut lookup = table.lookup();
            if let Some((place, entry)) = lookup.find(root, rest)? {
                let content = lookup.content_of(place, entry)?;
                return Ok(content.map(|(place, entry)| (Node::Entry(backup, place), Some(entry))));
            }
        }
        let above = !below(&shown.roots, path).is_empty();
        Ok(above.then(|| (Node::Above(backup, path.to_vec()), None)))
    }

    /// The names in a directory behind an offset (0: from the beginning), given to `take` until it has enough (returns true).
    pub fn children(&self, node: &Node, offset: u64, take: &mut dyn FnMut(Child) -> bool) -> Result<()> {
        match node {
            Node::Top | Node::Host(_) => {
                for child in self.made_up(node).into_iter().filter(|child| child.offset > offset) {
                    if take(child) {
                        break;
                    }
                }
                Ok(())
            }
            Node::Latest(..) => Ok(()),
            Node::Above(backup, path) => self.below(*backup, path, offset, take),
            Node::Entry(backup, place) => match self.entry(*backup, *place)? {
                Some(entry) => self.below(*backup, &self.original(*backup, &entry), offset, take),
                None => Ok(()),
            },
        }
    }

    /// Hosts, or a host's backups. Numbers only grow, so an offset stays right while backups come and go.
    fn made_up(&self, node: &Node) -> Vec<Child> {
        let mut catalogue = lock(&self.catalogue);
        catalogue.refresh();
        let child = |name: &str, node: Node, offset: u64| Child {
            name: name.as_bytes().to_vec(),
            node,
            offset,
            entry: None,
        };
        match node {
            Node::Host(host) => {
                let own = catalogue.there().filter(|(_, shown)| shown.host == *host);
                let backups = own.map(|(number, shown)| {
                    child(&shown.name, Node::Above(number, Vec::new()), LINKS + u64::from(number))
                });
                let links = catalogue.latest(host).into_iter().zip(1..);
                let links =
                    links.map(|((link, _), offset)| child(&link, Node::Latest(host.clone(), link.clone()), offset));
                links.chain(backups).collect()
            }
            _ => {
                let hosts = catalogue.hosts().into_iter().enumerate();
                hosts
                    .map(|(index, host)| child(host, Node::Host(host.to_owned()), 1 + index as u64))
                    .collect()
            }
        }
    }

    /// First the names that lead to deeper roots, then the table's.
    fn below(&self, backup: u32, path: &[u8], offset: u64, take: &mut dyn FnMut(Child) -> bool) -> Result<()> {
        let Some(shown) = self.shown(backup) else { return Ok(()) };
        let leading = below(&shown.roots, path);
        for (index, name) in leading.iter().enumerate() {
            let own = 1 + index as u64;
            if own <= offset {
                continue;
            }
            if let Some((node, entry)) = self.at(backup, &join(path, name))? {
                let child = Child {
                    name: name.clone(),
                    node,
                    offset: own,
                    entry,
                };
                if take(child) {
                    return Ok(());
                }
            }
        }
        let Some((root, rest)) = deepest(&shown.roots, path) else {
            return Ok(());
        };
        let table = self.table(backup)?;
        let mut after = (offset >= ENTRIES).then(|| place_of(offset - ENTRIES));
        loop {
            // Not held while `take` works.
            let found = table.lookup().child(root, rest, after)?;
            let Some((place, entry)) = found else { return Ok(()) };
            after = Some(place);
            let name = entry
                .path
                .rsplit(|byte| *byte == b'/')
                .next()
                .unwrap_or_default()
                .to_vec();
            if leading.contains(&name) {
                continue;
            }
            let Some((content, entry)) = table.lookup().content_of(place, entry)? else {
                continue;
            };
            let child = Child {
                name,
                node: Node::Entry(backup, content),
                offset: ENTRIES + offset_of(place),
                entry: Some(entry),
            };
            if take(child) {
                return Ok(());
            }
        }
    }
}

/// The deepest root that holds a path, and the path relative to it.
fn deepest<'p>(roots: &[Vec<u8>], path: &'p [u8]) -> Option<(u32, &'p [u8])> {
    let holding = roots
        .iter()
        .enumerate()
        .filter_map(|(index, root)| Some((index, relative(root, path)?)));
    holding
        .min_by_key(|(_, rest)| rest.len())
        .map(|(index, rest)| (index as u32, rest))
}

/// The names in a directory that lead to roots below it.
fn below(roots: &[Vec<u8>], directory: &[u8]) -> BTreeSet<Vec<u8>> {
    let deeper = roots.iter().filter_map(|root| relative(directory, root));
    deeper
        .filter_map(|rest| rest.split(|byte| *byte == b'/').next())
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// `path` relative to `directory`, if it is there or below.
fn relative<'p>(directory: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(directory)?;
    match (directory.is_empty(), rest) {
        (true, rest) | (false, rest @ []) => Some(rest),
        (false, rest) => rest.strip_prefix(b"/"),
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match (directory, name) {
        ([], only) | (only, []) => only.to_vec(),
        (directory, name) => [directory, b"/", name].concat(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_root_holds_a_path_and_names_lead_to_those_below() {
        let roots: Vec<Vec<u8>> = ["srv", "srv/www/a", "etc/mysql"]
            .map(|root| root.as_bytes().to_vec())
            .into();
        assert_eq!(deepest(&roots, b"srv/www/a/x"), Some((1, &b"x"[..])));
        assert_eq!(deepest(&roots, b"srv/www/a"), Some((1, &b""[..])));
        assert_eq!(deepest(&roots, b"srv/www"), Some((0, &b"www"[..])));
        assert_eq!(deepest(&roots, b"srvx"), None);
        let names = |path: &[u8]| below(&roots, path).into_iter().collect::<Vec<_>>();
        assert_eq!(names(b""), [b"etc".to_vec(), b"srv".to_vec()]);
        assert_eq!(names(b"srv"), [b"www".to_vec()]);
        assert_eq!(names(b"srv/www"), [b"a".to_vec()]);
        assert!(names(b"srv/www/a").is_empty() && names(b"etc/my").is_empty());
        let whole = [Vec::new()];
        assert_eq!(deepest(&whole, b"any/where"), Some((0, &b"any/where"[..])));
    }
}
