//! One column of a table: its definition, and the function that makes its cell from an object.

use crate::{Str, Value};
use jiff::Timestamp;
use std::fmt;
use std::sync::Arc;

/// A cell's function that owns what it needs.
pub type SharedCell = dyn Fn(&Value, Timestamp) -> Value + Send + Sync;

/// How the cell of a column is made. `now` turns timestamps into ages.
#[derive(Clone)]
pub enum Cell {
    /// A built-in kind's function.
    Function(fn(&Value, Timestamp) -> Value),
    /// A function that owns what it needs, as a custom resource's printer column does.
    Shared(Arc<SharedCell>),
}

impl Cell {
    /// The cell for one object.
    #[must_use]
    pub fn value(&self, object: &Value, now: Timestamp) -> Value {
        match self {
            Cell::Function(function) => function(object, now),
            Cell::Shared(function) => function(object, now),
        }
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cell")
    }
}

/// One column: what `columnDefinitions` says of it, and its cells.
#[derive(Clone, Debug)]
pub struct Column {
    /// The heading, such as `Ready`; kubectl prints it in capitals.
    pub name: Str,
    /// OpenAPI type: `string`, `integer`, `boolean`, ...
    pub kind: Str,
    /// OpenAPI format: `name` for the name column, else mostly empty.
    pub format: Str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    /// What the column means, one sentence.
    pub description: Str,
    /// Makes the cell.
    pub cell: Cell,
}

impl Column {
    /// A string column that is always shown.
    #[must_use]
    pub fn new(name: &str, cell: fn(&Value, Timestamp) -> Value) -> Self {
        Column {
            name: name.into(),
            kind: "string".into(),
            format: Str::default(),
            priority: 0,
            description: Str::default(),
            cell: Cell::Function(cell),
        }
    }

    /// The column shown only with `-o wide`.
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// The column with another type.
    #[must_use]
    pub fn of(mut self, kind: &str) -> Self {
        self.kind = kind.into();
        self
    }

    /// The `Name` column.
    #[must_use]
    pub fn name() -> Self {
        let mut column =
            Column::new("Name", |object, _| object.str_at(&["metadata", "name"]).unwrap_or_default().into());
        column.format = "name".into();
        column.description = "Name must be unique within a namespace.".into();
        column
    }

    /// The `Age` column.
    #[must_use]
    pub fn age() -> Self {
        let mut column = Column::new("Age", |object, now| {
            Value::from(super::render::age(object.str_at(&["metadata", "creationTimestamp"]), now))
        });
        column.description = "The time since the object was created.".into();
        column
    }
}
