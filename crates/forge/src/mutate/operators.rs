//! The operators, their families and weights.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A family of operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `==`, `is`, `in` and orders.
    Comparison,
    /// Off by one.
    Boundary,
    /// `+`, `*`, `|` and their like.
    Arithmetic,
    /// `and`, `or`, `not`.
    Boolean,
    /// What is tested.
    Condition,
    /// Numbers, strings, truth values.
    Constant,
    /// What is returned.
    Return,
    /// What is passed.
    Argument,
    /// Missing branches.
    Branch,
    /// Missing calls and other statements.
    Call,
    /// Another name in scope.
    Name,
    /// Raising and handling.
    Exception,
    /// Slices.
    Slice,
    /// Default arguments.
    Default,
    /// Loop control.
    Loop,
    /// Assignments.
    Assignment,
    /// `await` and `yield from`.
    Async,
    /// Comprehensions.
    Comprehension,
    /// Chained and neighbouring methods.
    Method,
    /// A function as a model rewrote it, see [`rewrite`](super::rewrite()).
    Rewrite,
}

impl Family {
    /// Those that have operators: all but [`Self::Rewrite`].
    pub const ALL: [Self; 19] = [
        Self::Comparison,
        Self::Boundary,
        Self::Arithmetic,
        Self::Boolean,
        Self::Condition,
        Self::Constant,
        Self::Return,
        Self::Argument,
        Self::Branch,
        Self::Call,
        Self::Name,
        Self::Exception,
        Self::Slice,
        Self::Default,
        Self::Loop,
        Self::Assignment,
        Self::Async,
        Self::Comprehension,
        Self::Method,
    ];

    /// Its name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Comparison => "comparison",
            Self::Boundary => "boundary",
            Self::Arithmetic => "arithmetic",
            Self::Boolean => "boolean",
            Self::Condition => "condition",
            Self::Constant => "constant",
            Self::Return => "return",
            Self::Argument => "argument",
            Self::Branch => "branch",
            Self::Call => "call",
            Self::Name => "name",
            Self::Exception => "exception",
            Self::Slice => "slice",
            Self::Default => "default",
            Self::Loop => "loop",
            Self::Assignment => "assignment",
            Self::Async => "async",
            Self::Comprehension => "comprehension",
            Self::Method => "method",
            Self::Rewrite => "rewrite",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|family| family.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("no family of operators is called `{name}`; there are {names}")
            })
    }
}

/// One way to break code. The weight says how plausible its bugs are, and
/// grows with the chance that the program still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// Unique name.
    pub name: &'static str,
    /// What it belongs to.
    pub family: Family,
    /// From 1 (rarely of use) to 8.
    pub weight: u32,
}

macro_rules! operators {
    ($($constant:ident $name:literal $family:ident $weight:literal;)*) => {
        $(pub(super) const $constant: Operator = Operator {
            name: $name, family: Family::$family, weight: $weight,
        };)*
        /// Every operator.
        pub const OPERATORS: &[Operator] = &[$($constant),*];
    };
}

operators! {
    SWAP_EQUALITY "swap_equality" Comparison 4;
    SWAP_ORDER "swap_order" Comparison 3;
    SWAP_MEMBERSHIP "swap_membership" Comparison 3;
    COMPARE_BOUNDARY "compare_boundary" Boundary 8;
    RANGE_BOUNDARY "range_boundary" Boundary 7;
    INDEX_BOUNDARY "index_boundary" Boundary 4;
    SWAP_ARITHMETIC "swap_arithmetic" Arithmetic 4;
    SWAP_OPERANDS "swap_operands" Arithmetic 4;
    DROP_OPERAND "drop_operand" Arithmetic 4;
    DROP_SIGN "drop_sign" Arithmetic 4;
    SWAP_AND_OR "swap_and_or" Boolean 6;
    DROP_NOT "drop_not" Boolean 5;
    NEGATE_CONDITION "negate_condition" Condition 2;
    DROP_CLAUSE "drop_clause" Condition 8;
    FIXED_CONDITION "fixed_condition" Condition 3;
    NONE_TO_TRUTH "none_to_truth" Condition 8;
    NARROW_TYPE_CHECK "narrow_type_check" Condition 6;
    SWAP_TERNARY "swap_ternary" Condition 3;
    DROP_TERNARY "drop_ternary" Condition 5;
    NUMBER "number" Constant 4;
    TRUTH_VALUE "truth_value" Constant 5;
    STRING "string" Constant 2;
    PATTERN "pattern" Constant 5;
    DROP_RETURN_VALUE "drop_return_value" Return 2;
    NEGATE_RETURN "negate_return" Return 3;
    SWAP_RETURN_ITEMS "swap_return_items" Return 5;
    RETURN_OTHER_NAME "return_other_name" Return 4;
    SWAP_ARGUMENTS "swap_arguments" Argument 5;
    DROP_KEYWORD "drop_keyword" Argument 6;
    DROP_ARGUMENT "drop_argument" Argument 5;
    DROP_ELSE "drop_else" Branch 5;
    DROP_ELIF "drop_elif" Branch 6;
    DROP_IF "drop_if" Branch 6;
    DROP_BODY "drop_body" Branch 3;
    DROP_CALL "drop_call" Call 5;
    UNWRAP_CALL "unwrap_call" Call 5;
    SWAP_FUNCTION "swap_function" Call 6;
    DROP_DELETE "drop_delete" Call 3;
    SWAP_NAME "swap_name" Name 2;
    OPPOSITE_NAME "opposite_name" Name 7;
    SWAP_ATTRIBUTE "swap_attribute" Name 2;
    OTHER_HANDLED "other_handled" Exception 4;
    NARROW_HANDLER "narrow_handler" Exception 7;
    WIDEN_HANDLER "widen_handler" Exception 2;
    DROP_HANDLER "drop_handler" Exception 5;
    OTHER_RAISED "other_raised" Exception 5;
    DROP_RAISE "drop_raise" Exception 5;
    SLICE_BOUND "slice_bound" Slice 6;
    DROP_SLICE_BOUND "drop_slice_bound" Slice 5;
    DROP_STEP "drop_step" Slice 4;
    DEFAULT_VALUE "default_value" Default 5;
    SWAP_BREAK "swap_break" Loop 4;
    DROP_JUMP "drop_jump" Loop 4;
    EARLY_EXIT "early_exit" Loop 2;
    DROP_ASSIGNMENT "drop_assignment" Assignment 5;
    SWAP_AUGMENTED "swap_augmented" Assignment 5;
    PLAIN_AUGMENTED "plain_augmented" Assignment 5;
    SWAP_TARGETS "swap_targets" Assignment 3;
    DROP_AWAIT "drop_await" Async 2;
    DROP_FROM "drop_from" Async 4;
    DROP_FILTER "drop_filter" Comprehension 7;
    NEGATE_FILTER "negate_filter" Comprehension 2;
    SWAP_KEY_VALUE "swap_key_value" Comprehension 2;
    DROP_METHOD "drop_method" Method 6;
    SWAP_METHOD "swap_method" Method 6;
}
