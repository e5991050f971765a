use es_core::AggregateId;

#[derive(AggregateId, Clone, Debug, PartialEq)]
struct AccountId(String);

#[derive(AggregateId, Clone, Debug, PartialEq)]
struct OrderId(u64);

fn same<I: AggregateId + PartialEq>(id: I) {
    assert_eq!(I::parse(&id.to_string()), Some(id));
}

#[test]
fn it_is_what_it_says() {
    same(AccountId::from("ada"));
    same(AccountId::from(String::new()));
    same(OrderId::from(7));
    assert_eq!(OrderId::parse("seven"), None);
}
