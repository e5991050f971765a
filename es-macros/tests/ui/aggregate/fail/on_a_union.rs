use es_core::Aggregate;

#[derive(Aggregate, Clone, Copy)]
#[aggregate(id = String, event = AccountEvent, error = AccountError)]
union Account {
    a: u8,
}

fn main() {}
